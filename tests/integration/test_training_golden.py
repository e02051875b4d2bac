"""The first 50 steps of a recipe of each family follow a committed loss curve.

``python tests/integration/test_training_golden.py NAME …`` writes the curves anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.unit.training.tiny import make_job  # noqa: E402

from llmos.kernel.protocol import JobMetric  # noqa: E402
from llmos.training import handler  # noqa: E402
from llmos.training.recipe import load, override  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = ["steps=50", "eval_every=25", "eval_batches=4", "optimizer.warmup_steps=10"]
SETTINGS += ["evaluate.splits=[]"]
SMALLER = {
    "char-ngram": [],
    "word-vectors": ["data.rows=3000", "evaluate.splits=[]"],
    "char-gpt": ["eval_batches=20"],
    "char-llama": ["batch_size=4"],
    "char-lstm": ["batch_size=4"],
    "translate-mini": ["batch_size=4", "data.rows=500"],
    "translate-gru": ["batch_size=4", "data.rows=500"],
    "encoder-mini": ["batch_size=8", "data.rows=600"],
    "span-mini": ["batch_size=8", "data.rows=600"],
    "answer-mini": ["batch_size=4", "data.rows=300"],
    "embed-mini": ["batch_size=8", "data.rows=300"],
    "rate-mini": ["batch_size=8", "data.rows=300"],
    "multitask-mini": [
        *("batch_size=4", "data.rows=300", "also.answer.data.rows=300"),
        *("also.entities.data.rows=300", "also.rate.data.rows=300"),
    ],
    "tagger-pos-en": ["batch_size=8", "data.rows=600"],
    "tagger-pos-zh": ["batch_size=8", "data.rows=600"],
    "tagger-words-zh": ["batch_size=8", "data.rows=600"],
    "tagger-ner": ["batch_size=8", "data.rows=600"],
    "parser-en": ["batch_size=8", "data.rows=600"],
    "parser-zh": ["batch_size=8", "data.rows=600"],
    "text-cnn": ["batch_size=16", "data.rows=1000"],
    "text-lstm": ["batch_size=16", "data.rows=1000"],
    "text-autoencoder": ["batch_size=4", "data.rows=1000"],
    "text-seqgan": [
        *("batch_size=8", "data.rows=1000", "adversarial.pretrain_steps=30"),
        *("adversarial.critic_steps=5", "model.config.hidden_size=64"),
    ],
    "text-vae": ["batch_size=4", "data.rows=1000"],
}
"""Recipes with a curve, and what makes 50 steps of them a matter of a second or two."""
STEPS = {"char-ngram": 6, "word-vectors": 10}
"""Of recipes that do not say how many there are."""


def curves(name: str, directory: Path) -> dict[str, list[float]]:
    """Train a recipe so far; return the losses of all of them and the validation losses."""
    settings = [] if name in STEPS else SETTINGS
    recipe = override(load(ROOT / "recipes" / f"{name}.yaml"), [*settings, *SMALLER[name]])
    context, sent = make_job(directory, recipe)
    handler.run(context)
    points = [message.values for message in sent if isinstance(message, JobMetric)]
    names = ("loss", "validation_loss")
    return {name: [point[name] for point in points if name in point] for name in names}


@pytest.mark.parametrize("name", SMALLER)
def test_a_recipe_learns_as_it_always_has(name: str, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    found = curves(name, tmp_path)
    assert len(found["loss"]) == STEPS.get(name, 50)
    assert found["loss"] == pytest.approx(golden["loss"], rel=0.01)
    assert found["validation_loss"] == pytest.approx(golden["validation_loss"], rel=0.01)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or SMALLER:
        with tempfile.TemporaryDirectory() as temporary:
            found = curves(wanted, Path(temporary))
        (GOLDEN / f"{wanted}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(wanted, found["loss"][0], found["loss"][-1])
