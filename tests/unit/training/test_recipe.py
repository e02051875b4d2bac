from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.training.tiny import make_recipe

from llmos.errors import RecipeError
from llmos.training.recipe import dump, load, override, parse

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_is_valid_and_names_data_that_is_there(path: Path) -> None:
    recipe = parse(load(path))
    assert recipe.name == path.stem and recipe.starter is not None
    assert recipe.card.description and recipe.card.limits


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("step=3", "unknown recipe key step: did you mean steps?"),
        (
            "optimizer.learning_rat=3",
            "unknown recipe key optimizer.learning_rat: did you mean learning_rate?",
        ),
        (
            "learning_rate=2",
            "unknown recipe key learning_rate: it belongs at optimizer.learning_rate",
        ),
        ("steps=abc", "steps must be a whole number, not 'abc'"),
        ("steps=1.5", "steps must be a whole number, not 1.5"),
        ("steps=true", "steps must be a whole number, not True"),
        ("steps=0", "steps is 0: input should be greater than or equal to 1"),
        ("seed=9999999999999999999999", "seed is 9999999999999999999999: input should be less"),
        ("data=3", "data must be a section (a mapping of keys to values), not 3"),
        ("tokenizer.kind=bpe", "tokenizer.kind must be 'character', 'word', 'byte_bpe', 'base', "),
        ("tokenizer.kind=teacher", "tokenizer.kind teacher needs distill"),
        ("distill.alpha=0.5", "the recipe needs distill.teacher"),
        ("distill={teacher: a, alpha: 2}", "distill.alpha is 2"),
        ("task=chat", "task chat needs a chat_template"),
        ("model.base=x", "model needs either `architecture` or `base`, not both"),
        ("objective=seq2seq", "task generate needs objective causal_lm"),
        ("objective=foo", "objective must be 'causal_lm', 'seq2seq', "),
        ("optimizer.min_learning_rate=1", "min_learning_rate is above"),
        ("optimizer.momentum=0.9", "optimizer.momentum is for muon, rmsprop, sgd; adamw has"),
        ("optimizer.kind=adamm", "optimizer.kind must be 'sgd', 'rmsprop', 'adam', 'adamw', "),
        ("optimizer.schedule=cos", "optimizer.schedule must be 'constant', 'linear', 'cosine', "),
        ("ema=1", "ema is 1: input should be less than 1"),
        ("adapter={}", "an adapter is for a model.base, and needs tokenizer.kind base"),
        ("adapter.rank=0", "adapter.rank is 0: input should be greater than or equal to 1"),
        ("dpo.beta=0.1", "dpo is for objective dpo"),
        ("objective=dpo", "task generate needs objective causal_lm"),
        ("robust.noise=-1", "robust.noise is -1: input should be greater than or equal to 0"),
        ("optimizer.decay_steps=5", "optimizer.decay_steps is for schedule wsd"),
        ("optimizer.betas=[2.0, 0.9]", "optimizer.betas.0 is 2"),
        ("model=null", "model must be a section"),
        ("zzz=1", "unknown recipe key zzz: there are name, task"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_key(setting: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(override(make_recipe("generate"), [setting]))
    assert says in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"architecture": "llama"}}, "objective dpo goes on from a model.base"),
        ({"robust": {"noise": 1.0}}, "objective dpo takes no robust section"),
        ({"data": {"path": "starter:chat", "rows": 5}}, "objective dpo needs a file of pairs"),
        ({"evaluate": {"splits": ["validation"]}}, "objective dpo is tested on validation alone"),
    ],
)
def test_preferences_are_for_a_base_and_a_file(changes: dict[str, Any], says: str) -> None:
    given = {"model": {"base": "m"}, "tokenizer": {"kind": "base"}, "data": {"path": "p.jsonl"}}
    recipe = make_recipe("chat", objective="dpo", **given | changes)
    with pytest.raises(RecipeError, match=says):
        parse(recipe)


def test_test_splits_that_a_file_does_not_have_are_refused_before_any_training() -> None:
    changes = ["data.path=mine.txt", "evaluate.splits=[test_templates]"]
    with pytest.raises(RecipeError, match="a file has only train and validation"):
        parse(override(make_recipe("generate"), changes))


@pytest.mark.parametrize("recipe", [None, [], "x", 3])
def test_a_recipe_that_is_no_mapping_is_refused(recipe: object) -> None:
    with pytest.raises(RecipeError, match="must be a YAML mapping"):
        parse(recipe)


def test_a_missing_key_is_named() -> None:
    recipe = make_recipe("generate")
    del recipe["steps"]
    with pytest.raises(RecipeError, match="the recipe needs steps"):
        parse(recipe)


def test_override_sets_yaml_values_and_leaves_the_original() -> None:
    recipe = make_recipe("generate")
    changed = override(
        recipe,
        [
            "data.path=FILE.txt",
            "optimizer.learning_rate=1e-3",
            "card.languages=[en, zh]",
            "name=a=b",
        ],
    )
    assert changed["data"]["path"] == "FILE.txt" and recipe["data"]["path"] == "starter:tales"
    assert changed["optimizer"]["learning_rate"] == 0.001
    assert changed["card"]["languages"] == ["en", "zh"]
    assert changed["name"] == "a=b"


@pytest.mark.parametrize("setting", ["steps", "=3", "steps.x=1", "steps=]"])
def test_a_malformed_override_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        override(make_recipe("generate"), [setting])


def test_a_data_path_in_a_file_is_beside_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("data: {path: text.txt}\noptimizer: {learning_rate: 1e-3}\n")
    recipe = load(path)
    assert recipe["data"]["path"] == str(tmp_path / "text.txt")
    assert recipe["optimizer"]["learning_rate"] == 0.001
    path.write_text("data: {path: 'starter:chat'}\n")
    assert load(path)["data"]["path"] == "starter:chat"
    for named, found in (("v.vec", str(tmp_path / "v.vec")), ("my-vectors", "my-vectors")):
        path.write_text(f"model: {{vectors: {named}}}\n")
        assert load(path)["model"]["vectors"] == found
    path.write_text("data: {path: 'feedback:me'}\nreplay: {path: old.jsonl}\n")
    recipe = load(path)
    assert recipe["data"]["path"] == "feedback:me"
    assert recipe["replay"]["path"] == str(tmp_path / "old.jsonl")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [", "is not valid YAML in line 1"),
        (b"- 1", "mapping"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=says):
        load(tmp_path / "r.yaml")


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe"):
        load(tmp_path / "none.yaml")


def test_a_dumped_recipe_is_the_same_recipe() -> None:
    for task in ("generate", "chat", "translate"):
        recipe = parse(make_recipe(task))
        assert parse(yaml.safe_load(dump(recipe))) == recipe
