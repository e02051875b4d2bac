from __future__ import annotations

from typing import Any

from llmos.sdk.comparing import compare


def model(ref: str, **manifest: Any) -> dict[str, Any]:
    return {"ref": ref, "manifest": manifest}


def test_what_differs_in_recipes_and_all_that_was_measured() -> None:
    one = model(
        "a:1",
        recipe={"steps": 10, "model": {"config": {"cell": "gru", "sizes": [1, 2]}}, "seed": 3},
        metrics={"validation_loss": 1.5, "test": {"accuracy": 0.5}, "note": "x", "good": True},
        parameters=100,
        source={"seconds": 2.5},
    )
    other = model(
        "b:2",
        recipe={"steps": 10, "model": {"config": {"cell": "lstm", "sizes": [1, 2]}}, "ema": 0.9},
        metrics={"validation_loss": 1.25},
        parameters=120,
        source={},
    )
    found = compare([one, other])
    assert found.refs == ("a:1", "b:2")
    assert found.recipe == {
        "model.config.cell": ("gru", "lstm"),
        "seed": (3, None),
        "ema": (None, 0.9),
    }
    assert found.metrics == {
        "parameters": (100, 120),
        "seconds": (2.5, None),
        "validation_loss": (1.5, 1.25),
        "test.accuracy": (0.5, None),
    }
    assert found.as_json()["recipe"]["seed"] == {"a:1": 3, "b:2": None}


def test_models_that_were_imported_have_no_recipe() -> None:
    found = compare([model("a:1", parameters=5), model("b:1", recipe=None, metrics=None)])
    assert found.recipe == {}
    assert found.metrics == {"parameters": (5, None)}
