from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import llmos
from llmos.models.families import FAMILIES, Family
from llmos.models.registry import AUTO_CLASSES, register
from llmos.training.recipe import HEADS, OBJECTIVES, OTHER_OBJECTIVES, load, parse

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.recipe)
def test_a_family_is_what_it_says(family: Family) -> None:
    register()
    recipe = parse(load(ROOT / "recipes" / f"{family.recipe}.yaml"))
    assert recipe.model.architecture == family.architecture
    assert recipe.task in family.tasks
    config = CONFIG_MAPPING[family.architecture]
    assert config.model_type == family.architecture
    for task in family.tasks:
        objectives = (OBJECTIVES[task], *OTHER_OBJECTIVES.get(task, ()))
        heads = {HEADS.get(objective, objective) for objective in objectives}
        assert any(config in AUTO_CLASSES[head]._model_mapping for head in heads)
    if family.module is not None:
        assert config is getattr(importlib.import_module(family.module), family.config)
        page = ROOT / "docs" / "models" / f"{family.architecture}.md"
        assert family.paper in page.read_text("utf-8")


def test_they_are_told_in_python() -> None:
    assert llmos.architectures() == list(FAMILIES)


def test_each_recipe_is_on_a_page_but_for_those_of_the_starters() -> None:
    pages = "".join(path.read_text("utf-8") for path in (ROOT / "docs" / "models").glob("*.md"))
    named = {family.recipe for family in FAMILIES if not family.recipe.startswith("starter-")}
    assert {recipe for recipe in named if f"llmos train {recipe}" not in pages} == set()


def test_a_process_that_loaded_nothing_yet_builds_any_of_them(tmp_path: Path) -> None:
    """As the engine does with a quantised model."""
    from llmos.models.recurrent import RecurrentConfig

    RecurrentConfig(
        vocab_size=20, hidden_size=8, architectures=["RecurrentForCausalLM"]
    ).save_pretrained(tmp_path)
    script = (
        "import sys; from pathlib import Path; from llmos.engines.native.int8_model import build; "
        "print(type(build(Path(sys.argv[1]))).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "RecurrentForCausalLM", done.stderr
