from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.training.tiny import make_recipe

from llmos.apps.pipeline_file import MAX_VALUES, load, read
from llmos.apps.pipelines import parse
from llmos.errors import LlmosError, PipelineError, RecipeError

PIPELINES = sorted((Path(__file__).parents[3] / "recipes" / "pipelines").glob("*.yaml"))


def write(folder: Path, params: dict[str, Any]) -> Path:
    path = folder / "pipe.yaml"
    path.write_text(
        yaml.safe_dump({"name": "x", "steps": {"train": {"kind": "train", "params": params}}})
    )
    return path


def params_of(path: Path, *changes: str) -> dict[str, Any]:
    params: dict[str, Any] = load(path, list(changes))["steps"]["train"]["params"]
    return params


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_pipeline_in_the_repository_is_well_made(path: Path) -> None:
    assert parse(load(path)).name == path.stem


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: [1", "line 2: file.yaml is not valid YAML"),
        ("a: 1\na: 2", "line 2: the key 'a' is there twice"),
        ("a:\n  b: 1\n  b: 2", "line 3: the key 'b' is there twice"),
        ("a: 1\n1: 2", "line 2: the key '1' is not text: put it in quotes"),
        ("a:\n  on: 2", "line 2: the key 'on' is not text"),
        ("a: 1\n? [b, c]\n: 2", "line 2: the key 'of several values' is not text"),
        ("a: 1\nb: 2024-01-01", "line 2: '2024-01-01' is neither text nor a number"),
        ("a: .inf", "line 1: '.inf' is neither"),
        ("a: !!python/object:os.system {}", "line 1: the tag"),
        ("a: 1\nb: !!set {x, y}", "line 2: the tag"),
        ("a: !other 5", "line 1: file.yaml is not valid YAML"),
        ("a: \0", "is not valid YAML"),
        ("- a", "must be a YAML mapping"),
        ("", "must be a YAML mapping"),
        ("a: &a [*a]", "nested more than"),
        ("a: " + "[" * 40 + "]" * 40, "nested more than"),
    ],
)
def test_what_is_no_good_yaml_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(PipelineError) as caught:
        read(text, "file.yaml")
    assert says in caught.value.message


def test_anchors_that_blow_up_are_refused() -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(8)
    )
    with pytest.raises(PipelineError, match=f"more than {MAX_VALUES}"):
        read(bomb, "file.yaml")


def test_anchors_and_merges_share_what_steps_have_in_common() -> None:
    values, lines = read("base: &b\n  x: 1\n  y: 2\none:\n  <<: *b\n  y: 3\ntwo: *b", "f")
    assert values["one"] == {"x": 1, "y": 3}
    assert values["two"] == values["base"] == {"x": 1, "y": 2}
    assert (lines["one.x"], lines["one.y"]) == (2, 6)


def test_numbers_are_as_in_recipes() -> None:
    assert read("a: 1e-3\nb: 0x10\nc: '1'", "f")[0] == {"a": 0.001, "b": 16, "c": "1"}


def test_a_recipe_beside_the_pipeline_takes_its_place_with_changes(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("text")
    (tmp_path / "small.yaml").write_text(
        yaml.safe_dump(make_recipe("generate", data={"path": "mine.txt"}))
    )
    changes = {"steps": 7, "optimizer.learning_rate": 0.5, "optimizer": {"warmup_steps": 3}}
    params = params_of(write(tmp_path, {"recipe": "small.yaml", "set": changes, "name": "n"}))
    recipe = params["recipe"]
    assert set(params) == {"recipe", "name"}
    assert recipe["data"]["path"] == str(tmp_path / "mine.txt")
    assert (recipe["steps"], recipe["optimizer"]["learning_rate"]) == (7, 0.5)
    assert recipe["optimizer"]["warmup_steps"] == 3
    assert recipe["model"] == make_recipe("generate")["model"]


def test_paths_in_the_pipeline_itself_are_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("text")
    inline = write(tmp_path, {"recipe": make_recipe("generate", data={"path": "mine.txt"})})
    assert params_of(inline)["recipe"]["data"]["path"] == str(tmp_path / "mine.txt")
    shipped = write(tmp_path, {"recipe": "char-gpt", "set": {"data.path": "mine.txt"}})
    assert params_of(shipped)["recipe"]["data"]["path"] == str(tmp_path / "mine.txt")
    awaited = write(tmp_path, {"recipe": "char-gpt", "set": {"data.path": "${a.model}"}})
    assert params_of(awaited)["recipe"]["data"]["path"] == "${a.model}"
    learns = {"data.path": "feedback:me", "replay": {"path": "mine.txt"}}
    recipe = params_of(write(tmp_path, {"recipe": "lora-chat", "set": learns}))["recipe"]
    assert recipe["data"]["path"] == "feedback:me"
    assert recipe["replay"]["path"] == str(tmp_path / "mine.txt")


def test_a_step_may_name_a_file_as_its_data(tmp_path: Path) -> None:
    (tmp_path / "held-out.jsonl").write_text("{}")
    for data in ("held-out.jsonl", str(tmp_path / "held-out.jsonl")):
        assert params_of(write(tmp_path, {"data": data}))["data"] == str(
            tmp_path / "held-out.jsonl"
        )
    for data in ("${split.model}", {"a": "sha256:0"}):
        assert params_of(write(tmp_path, {"data": data}))["data"] == data


def test_one_value_is_changed_by_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, {"recipe": "char-gpt", "name": "n"})
    changes = ["steps.train.params.name=other", "steps.train.params.set.steps=9"]
    params = params_of(path, *changes)
    assert (params["name"], params["recipe"]["steps"]) == ("other", 9)
    with pytest.raises(RecipeError, match="--set wants key=value"):
        load(path, ["name"])


def test_files_that_changes_name_are_as_seen_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, name in ((here, "mine.txt"), (there, "own.txt")):
        folder.mkdir()
        (folder / name).write_text("text")
    (here / "small.yaml").write_text(yaml.safe_dump(make_recipe("generate")))
    monkeypatch.chdir(here)
    at = "steps.train.params"
    assert params_of(write(there, {"data": "gone"}), f"{at}.data=mine.txt")["data"] == "mine.txt"
    shipped = write(there, {"recipe": "lora-chat", "set": {"replay": {"path": "own.txt"}}})
    recipe = params_of(shipped, f"{at}.set.data.path=mine.txt")["recipe"]
    assert recipe["data"]["path"] == "mine.txt"
    assert recipe["replay"]["path"] == str(there / "own.txt")
    inline = write(there, {"recipe": make_recipe("generate", data={"path": "own.txt"})})
    assert params_of(inline)["recipe"]["data"]["path"] == str(there / "own.txt")
    changed = params_of(inline, f"{at}.recipe.data.path=mine.txt")["recipe"]
    assert changed["data"]["path"] == "mine.txt"
    other = params_of(
        shipped, f"{at}.recipe=small.yaml", f"{at}.set={{data.path: mine.txt, seed: 4}}"
    )
    assert (other["recipe"]["data"]["path"], other["recipe"]["seed"]) == ("mine.txt", 4)
    with pytest.raises(PipelineError, match="there is no data file own"):
        params_of(write(there, {"data": "gone"}), f"{at}.data=own.txt")


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ("{recipe: nowhere.yaml}", "nowhere.yaml"),
        ("{recipe: 5}", "must be a recipe's file"),
        ("{recipe: char-gpt, set: 5}", "set must be a mapping"),
        ("{recipe: char-gpt, set: {steps.x: 5}}", "steps is a value"),
        ("{recipe: char-gpt, set: {data.path: gone.txt}}", "there is no data file"),
        ("{data: gone.jsonl}", "there is no data file"),
    ],
)
def test_a_recipe_or_data_file_that_is_missing_is_named_with_the_line(
    tmp_path: Path, params: str, says: str
) -> None:
    path = tmp_path / "pipe.yaml"
    path.write_text(f"name: x\nsteps:\n  train:\n    kind: train\n    params: {params}\n")
    with pytest.raises(LlmosError) as caught:
        load(path)
    assert caught.value.message.startswith("line 5: ") and says in caught.value.message


def test_a_value_set_in_the_recipe_keeps_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "pipe.yaml"
    path.write_text(
        "name: x\nsteps:\n  train:\n    kind: train\n    params:\n      recipe: char-gpt\n"
        "      set:\n        seed: ${each.sed}\n    each: {seed: [1]}\n"
    )
    with pytest.raises(PipelineError, match=r"line 8: \$\{each.sed\} names no value"):
        parse(load(path))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="there is no pipeline"):
        load(tmp_path / "gone.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PipelineError, match="cannot be read"):
        load(tmp_path / "bytes.yaml")
    (tmp_path / "big.yaml").write_text("#" * (2**20 + 1))
    with pytest.raises(PipelineError, match="larger"):
        load(tmp_path / "big.yaml")
    (tmp_path / "lines.yaml").write_text("name: x\nlines: {}\n")
    with pytest.raises(PipelineError, match="line 2: a pipeline has no key 'lines'"):
        load(tmp_path / "lines.yaml")


def test_the_example_in_the_docs_is_well_made() -> None:
    page = (Path(__file__).parents[3] / "docs" / "pipelines.md").read_text("utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    values, lines = read(example, "docs/pipelines.md")
    pipeline = parse(values | {"lines": lines})
    assert [(step.name, step.after, step.num_jobs) for step in pipeline.steps] == [
        ("train", (), 1),
        ("quantize", ("train",), 1),
        ("sweep", ("train",), 4),
        ("small", ("sweep",), None),
    ]
