"""Progress where there is no terminal: few lines, and never without the last."""

import pytest

from llmos.cli.progress import LineDisplay


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
