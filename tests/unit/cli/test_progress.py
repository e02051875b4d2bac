"""Progress of a job: all that is measured on a terminal, few lines elsewhere."""

import pytest
from rich.console import Console

from llmos.cli.progress import BarDisplay, LineDisplay, make_bar


def metric(step: int, loss: float) -> dict[str, object]:
    return {"type": "metric", "data": {"step": step, "values": {"loss": loss}}}


def test_a_job_quicker_than_the_next_line_still_says_how_it_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show = LineDisplay("training")
    show({"type": "progress", "data": {"step": 0, "total": 40, "message": "reading the data"}})
    show(metric(20, 3.5))
    show(metric(40, 2.25))
    show({"type": "state", "data": {"state": "running"}})
    show({"type": "state", "data": {"state": "succeeded"}})
    assert capsys.readouterr().err.splitlines() == [
        "training: 0/40 reading the data",
        "training: 40/40 loss 2.250",
    ]


def test_a_narrow_terminal_shows_all_that_is_measured() -> None:
    values = {"loss": 1.92, "validation_loss": 1.88, "learning_rate": 0.00099, "mfu": 0.31}
    values |= {"gradient_norm": 0.904, "tokens_per_s": 51_200, "memory_bytes": 412e6, "watts": 63.0}
    console = Console(width=80)
    with console.capture() as written, make_bar(console) as bar:
        show = BarDisplay(bar, "training")
        show({"type": "progress", "data": {"step": 100, "total": 2000, "message": "begun"}})
        show({"type": "metric", "data": {"step": 100, "values": values}})
    shown = " ".join(written.get().split())
    assert "100/2000" in shown and "ETA" in shown
    for one in ("loss 1.920", "val 1.880", "lr 0.00099", "grad 0.904", "51.2K tok/s", "MFU 31%"):
        assert one in shown
    assert "412.0 MB 63 W" in shown


def test_a_job_that_is_tried_again_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    error = {"code": "training_halved", "message": "memory ran out"}
    LineDisplay("training")({"type": "state", "data": {"state": "queued", "error": error}})
    assert capsys.readouterr().err == "queued again: memory ran out\n"
