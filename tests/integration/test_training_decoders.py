"""Each decoder that docs/models/decoders.md names is trained, saved and agrees with its engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.decoders import DECODERS
from tests.unit.training.tiny import make_job, make_recipe
from torch import nn
from transformers import AutoModelForCausalLM

from llmos.training import handler

PAGE = Path(__file__).parents[2] / "docs" / "models" / "decoders.md"


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_is_trained_and_published(name: str, tmp_path: Path) -> None:
    architecture, config = DECODERS[name]
    model = {"architecture": architecture, "config": config}
    context, _ = make_job(tmp_path, make_recipe("generate", model=model))
    (version,) = handler.run(context).artifacts
    manifest = version.manifest
    assert (manifest["model_type"], manifest["engine"]) == (architecture, "native")
    assert manifest["parity"]["rows"] > 0, "its engine says what the trainer says"
    network = AutoModelForCausalLM.from_pretrained(
        context.blobs.materialize(dict(version.files), tmp_path / "model")
    )
    kinds = {type(part) for part in network.modules()}
    is_layer_norm = any(issubclass(kind, nn.LayerNorm) for kind in kinds)
    assert is_layer_norm == (architecture not in ("llama", "arcee"))


def test_the_page_names_what_is_tested_and_nothing_else() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    table = [line for line in lines if line.startswith("| ") and "`architecture`" not in line]
    named = {name for line in table for name in re.findall(r"`(\w+)`", line.split("|")[-3])}
    assert named == {architecture for architecture, _ in DECODERS.values()}
