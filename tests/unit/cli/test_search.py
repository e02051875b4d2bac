"""`llmos search`: what is sent, how trials are shown, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import pytest

from llmos.apps.search_jobs import check_search
from llmos.cli import main, search

RATE = "optimizer.learning_rate"


def trial(search_id: int, number: int, job: int, state: str, loss: float | None) -> dict[str, Any]:
    result = (
        None if loss is None else {"artifacts": [f"m:{job}"], "metrics": {"validation_loss": loss}}
    )
    error = {"message": "the loss became nan"} if state == "failed" else None
    known = {"id": job, "owner": "me", "idempotency_key": f"search:{search_id}:0:{number}"}
    params = {"recipe": {"steps": 20}}
    return {**known, "state": state, "params": params, "result": result, "error": error}


class Stub:
    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def search(
        self, recipe: Any, section: Any, name: str, alias: str | None, on_progress: Any
    ) -> dict[str, Any]:
        params = {"recipe": recipe, "search": section, "name": name, "alias": alias}
        self.sent = check_search(params)
        return self.job(7)

    def job(self, number: int) -> dict[str, Any]:
        section = {"parameters": {RATE: [0.1, 0.2, 0.3]}, "metric": "validation_loss"}
        kind = "search" if number == 7 else "train"
        return {
            "id": number,
            "kind": kind,
            "owner": "me",
            "state": "running",
            "params": {"search": section},
        }

    def jobs(self, limit: int, before: int | None = None) -> list[dict[str, Any]]:
        if before is not None:
            return []
        other = trial(8, 0, 12, "succeeded", 0.1)
        lost, run = trial(7, 0, 11, "failed", None), trial(7, 2, 10, "running", None)
        return [other, lost, run, trial(7, 1, 9, "succeeded", 1.25)]


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()
    monkeypatch.setattr(search, "open_client", lambda server, home: made)
    return made


def test_what_is_tried_comes_from_the_recipe_and_the_command_line(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    text = (Path(__file__).parents[3] / "recipes" / "char-gpt.yaml").read_text()
    recipe.write_text(text + "\nsearch:\n  parameters:\n    seed: [0, 1]\n  seed: 4\n")
    arguments = ["search", "run", str(recipe), "--detach", "--name", "tuned", "--alias", "best"]
    arguments += ["--set", "data.path=starter:tales", "--method", "random", "--trials", "3"]
    arguments += ["--over", f"{RATE}={{low: 1e-4, high: 1e-2, log: true}}"]
    assert main.invoke(arguments) == 0, capsys.readouterr().err
    assert capsys.readouterr().out == "7\n"
    section = stub.sent["search"]
    assert (section["method"], section["trials"], section["seed"]) == ("random", 3, 4)
    assert section["parameters"]["seed"] == [0, 1]
    assert section["parameters"][RATE]["high"] == 0.01
    assert (stub.sent["name"], stub.sent["alias"]) == ("tuned", "best")


def test_trials_are_shown_the_best_first_and_the_lost_ones_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "search.png"
    assert main.invoke(["search", "show", "7", "--plot", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "1.25" in lines[1] and "m:9" in lines[1]
    assert any("the loss became nan" in line for line in lines[2:])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main.invoke(["search", "show", "7", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["job"] for row in told["trials"]] == [9, 11, 10]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "8"], "job 8 is a train, not a search"),
        (["run", "char-gpt"], "nothing to search over"),
        (["run", "char-gpt", "--over", "seed"], "--over wants KEY=VALUES"),
        (["run", "nowhere.yaml", "--over", "seed=[1]"], "there is no recipe"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["search", *arguments]) == 2
    assert says in capsys.readouterr().err
