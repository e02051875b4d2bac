"""The first 50 steps of the char-gpt recipe on its own text follow a committed loss curve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.training.tiny import make_job

from llmos.kernel.protocol import JobMetric
from llmos.training import handler
from llmos.training.recipe import load, override

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "char_gpt_loss.json"


def test_char_gpt_learns_as_it_always_has(tmp_path: Path) -> None:
    settings = ["steps=50", "eval_every=25", "optimizer.warmup_steps=10"]
    recipe = override(load(ROOT / "recipes" / "char-gpt.yaml"), settings)
    context, sent = make_job(tmp_path, recipe)
    handler.run(context)
    points = [message for message in sent if isinstance(message, JobMetric)]
    losses = [point.values["loss"] for point in points]
    validation = [p.values["validation_loss"] for p in points if "validation_loss" in p.values]
    golden = json.loads(GOLDEN.read_text())
    assert losses == pytest.approx(golden["loss"], rel=0.01)
    assert validation == pytest.approx(golden["validation_loss"], rel=0.01)
