"""What is published is what is served: a version of which trainer and engine differ never is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.training.tiny import CHAT_TEMPLATE, make_job, make_recipe

from llmos.engines import pipelines
from llmos.engines.native import lora, served
from llmos.engines.pipelines import PipelinesEngine
from llmos.errors import InvalidRequestError
from llmos.kernel.context import JobContext
from llmos.training import handler, parity, publish, versions
from llmos.training.parity_outputs import _check_tie
from llmos.training.publish import PublishingError
from llmos.types import PipelineWork

TASKS = [*sorted(parity.COMPARISONS), "spans"]


@pytest.mark.parametrize("task", TASKS)
def test_the_report_of_the_gate_is_part_of_the_version(task: str, tmp_path: Path) -> None:
    context, _ = make_job(tmp_path, make_recipe(task, save_dtype="bfloat16"))
    (version,) = handler.run(context).artifacts
    report = version.manifest["parity"]
    decodes = task in ("generate", "chat", "translate", "spans")
    assert report["engine"] == ("native" if task in ("generate", "chat") else "pipelines")
    assert report["texts"] >= 4 and report["text_tokens"] > 100
    assert report["rows"] >= 4 and report["tokens"] >= report["rows"]
    assert (report["greedy_tokens"] > 20) == decodes
    assert 0 < report["largest_difference"] < 1e-5 < report["tolerance"]


@pytest.mark.parametrize("task", TASKS)
def test_an_engine_that_computes_otherwise_stops_the_version(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (served, pipelines):
        load = module.load_pretrained  # type: ignore[attr-defined]

        def twisted(*args: Any, load: Any = load, **options: Any) -> Any:
            model = load(*args, **options)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "norm" in name.lower() or "ln_" in name or name == "relations":
                        parameter[0] *= 3  # not all: vectors of texts have length 1 anyway
            return model

        monkeypatch.setattr(module, "load_pretrained", twisted)
    context, _ = make_job(tmp_path, make_recipe(task))
    with pytest.raises(PublishingError, match=r"the trained model('s by| writes)"):
        handler.run(context)


def test_a_prompt_that_is_rendered_otherwise_stops_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = publish.save

    def with_another_template(*args: Any) -> None:
        save(*args)
        other = CHAT_TEMPLATE.replace("assistant\n", "assistant ")
        (args[4] / "chat_template.jinja").write_text(other)

    monkeypatch.setattr(publish, "save", with_another_template)
    context, _ = make_job(tmp_path, make_recipe("chat"))
    with pytest.raises(PublishingError, match="as other tokens than training"):
        handler.run(context)


def test_a_prefix_that_is_not_the_trained_one_stops_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = versions.described

    def with_another_prefix(recipe: Any) -> dict[str, Any]:
        told = described(recipe)
        return told | {"translation": told["translation"] | {"prefix": "<2{source_lang}>"}}

    monkeypatch.setattr(versions, "described", with_another_prefix)
    context, _ = make_job(tmp_path, make_recipe("translate"))
    with pytest.raises(PublishingError, match="as other tokens than training"):
        handler.run(context)


def test_a_task_that_nothing_compares_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(parity.COMPARISONS, "classify")
    context, _ = make_job(tmp_path, make_recipe("classify"))
    with pytest.raises(PublishingError, match="nothing compares trainer and engine for task class"):
        handler.run(context)


def adapter_job(directory: Path) -> JobContext:
    context, _ = make_job(directory, make_recipe("chat"))
    (base,) = handler.run(context).artifacts
    files = {name: {"digest": ref.digest, "size": ref.size} for name, ref in base.files.items()}
    recipe = make_recipe(
        "chat",
        model={"base": "tiny"},
        tokenizer={"kind": "base"},
        adapter={"rank": 2, "alpha": 8},
        optimizer={"learning_rate": 2e-2},
    )
    told = {"ref": "tiny:1", "digest": "sha256:base", "files": files}
    context, _ = make_job(directory, recipe, base=told)
    context.checkpoint_dir = directory / "adapter"
    return context


def test_an_adapter_is_compared_as_the_engine_applies_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = adapter_job(tmp_path)
    (version,) = handler.run(context).artifacts
    report = version.manifest["parity"]
    assert report["tokens"] > 100 and report["largest_difference"] < 1e-5
    assert 0 < report["merged_difference"] < 1e-5

    def halved(path: Path, read: Any = lora.read_adapter) -> lora.Adapter:
        adapter = read(path)
        modules = {
            name: dataclasses.replace(update, scaling=update.scaling / 2)
            for name, update in adapter.modules.items()
        }
        return lora.Adapter(adapter.rank, modules)

    monkeypatch.setattr(lora, "read_adapter", halved)
    context = adapter_job(tmp_path / "again")
    with pytest.raises(PublishingError, match=r"the trained model('s by| writes)"):
        handler.run(context)


def test_rounding_may_decide_between_tokens_that_are_as_likely() -> None:
    logits = torch.tensor([[1.0, 1.0 + 1e-5, 0.0]])
    _check_tie(logits, 0, 1, 0)
    with pytest.raises(PublishingError, match="greedy token number 0 is 2"):
        _check_tie(logits, 0, 1, 2)


def test_log_probabilities_of_a_search_are_those_of_one_beam() -> None:
    work = PipelineWork("seq2seq", (1, 2), {"logprobs": 1, "num_beams": 2})
    engine = PipelinesEngine()
    engine._tasks, engine._is_search = {"seq2seq": None}, True
    engine._vocab_size, engine._context_tokens = 10, 10
    with pytest.raises(InvalidRequestError, match="num_beams 1"):
        engine.submit("a", work)
