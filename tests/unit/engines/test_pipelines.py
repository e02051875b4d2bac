"""Seq2seq and classifiers against transformers, each row alone; batches change nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from llmos.engines.pipelines import PipelinesEngine
from llmos.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineError,
    InvalidModelError,
    InvalidRequestError,
    UnsupportedTaskError,
)
from llmos.models.multitask import MultitaskEncoder
from llmos.types import GenerateWork, PipelineOut, PipelineWork, SamplingParams

VOCAB = 61
MANIFEST: dict[str, Any] = {"engine": "pipelines", "context_tokens": 40}
LAYERS = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 48,
}
ENDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
    "num_labels": 5,
}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 48}

SEQ2SEQ = {
    "marian": ("MarianConfig", {**LAYERS, **ENDS, "decoder_start_token_id": 0}),
    "bart": ("BartConfig", {**LAYERS, **ENDS, "decoder_start_token_id": 1}),
    "m2m_100": ("M2M100Config", {**LAYERS, **ENDS, "decoder_start_token_id": 1}),
    "t5": (
        "T5Config",
        {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
        | ENDS
        | {"decoder_start_token_id": 0},
    ),
}
CLASSIFIERS = {
    "bert": ("BertConfig", BERT),
    "roberta": ("RobertaConfig", {**BERT, "pad_token_id": 1}),
    "gpt2": ("GPT2Config", {**GPT2, "pad_token_id": None, "num_labels": 5}),
    "gpt2-padded": ("GPT2Config", {**GPT2, "pad_token_id": 0, "num_labels": 5}),
}


def save(directory: Path, auto_class: Any, config_class: str, settings: dict[str, Any]) -> Any:
    """Save a random model with large weights; return it as transformers reads it back."""
    config = getattr(transformers, config_class)(**{"vocab_size": VOCAB, **settings})
    torch.manual_seed(3)
    model = auto_class.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(directory)
    return auto_class.from_pretrained(directory).eval()


def loaded(directory: Path, **options: Any) -> PipelinesEngine:
    engine = PipelinesEngine(**options)
    engine.load(directory, MANIFEST, "cpu", 1)
    return engine


def rows(count: int = 9, longest: int = 20) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [
        tuple(torch.randint(3, VOCAB, (1 + i * 7 % longest,), generator=generator).tolist())
        for i in range(count)
    ]


def run(engine: PipelinesEngine, works: dict[str, PipelineWork]) -> dict[str, Any]:
    for work_id, work in works.items():
        engine.submit(work_id, work)
    outs: dict[str, Any] = {}
    while engine.has_work:
        outs |= dict(engine.step())
    return outs


def alone(model: Any, prompt: tuple[int, ...], options: dict[str, Any]) -> tuple[int, ...]:
    """What transformers' generate makes of this row by itself, without special tokens."""
    out = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=options.get("max_tokens", 20),
        do_sample=False,
        **{name: value for name, value in options.items() if name != "max_tokens"},
    )[0].tolist()
    answer = out[1:]
    if answer[:1] == [options.get("forced_bos_token_id")]:
        answer = answer[1:]
    ends = [
        i for i, token in enumerate(answer) if token in (ENDS["pad_token_id"], ENDS["eos_token_id"])
    ]
    return tuple(answer[: ends[0]] if ends else answer)


@pytest.mark.parametrize("name", SEQ2SEQ)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.6, "max_tokens": 9},
        {"forced_bos_token_id": 7, "max_tokens": 5},
    ],
)
def test_seq2seq_rows_get_what_generate_gives_each_alone(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    model = save(tmp_path, transformers.AutoModelForSeq2SeqLM, *SEQ2SEQ[name])
    options = {"max_tokens": 12} | options
    works = {str(i): PipelineWork("seq2seq", row, options) for i, row in enumerate(rows())}
    expected = {i: alone(model, work.input_ids, options) for i, work in works.items()}
    got = run(loaded(tmp_path), works)
    assert {i: out.token_ids for i, out in got.items()} == expected
    assert all(len(out.token_ids) <= options["max_tokens"] for out in got.values())


def test_a_models_own_settings_cannot_change_what_a_step_returns(
    bart: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(bart, tmp_path / "other")
    settings = transformers.GenerationConfig.from_pretrained(bart)
    settings.update(num_return_sequences=3, num_beams=3, return_dict_in_generate=True)
    settings.update(max_length=4, do_sample=True, output_scores=True)
    work = PipelineWork("seq2seq", (4, 5, 6), {"num_beams": 1, "max_tokens": 9})
    expected = run(loaded(bart), {"a": work})
    settings.save_pretrained(other)
    assert run(loaded(other), {"a": work}) == expected


def test_a_search_takes_a_step_for_each_token_and_the_longest_row_sets_how_many(
    bart: Path,
) -> None:
    engine = loaded(bart)
    options = {"num_beams": 2, "max_tokens": 9}
    engine.submit("a", PipelineWork("seq2seq", (4, 5, 6), options))
    engine.submit("b", PipelineWork("seq2seq", (7, 8, 9, 10), options))
    steps = []
    while engine.has_work:
        steps.append([work_id for work_id, _ in engine.step()])
    assert steps == [*[[]] * (len(steps) - 1), ["a", "b"]]
    assert 3 < len(steps) <= 10


def test_a_search_nobody_waits_for_ends_at_once_and_the_next_is_right(bart: Path) -> None:
    engine = loaded(bart)
    kept = PipelineWork("seq2seq", (4, 5, 6), {"max_tokens": 9})
    expected = run(loaded(bart), {"kept": kept})
    engine.submit("gone", PipelineWork("seq2seq", (7, 8), {"num_beams": 3}))
    engine.step()
    engine.step()
    engine.cancel("gone")
    assert run(engine, {"kept": kept}) == expected
    engine.submit("gone", kept)
    engine.step()
    engine.cancel("gone")
    assert engine.step() == []
    assert not engine.has_work


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("kind", ["classify", "token_classify"])
def test_classifier_rows_get_the_softmax_of_each_alone(
    tmp_path: Path, name: str, kind: Any
) -> None:
    auto = {
        "classify": transformers.AutoModelForSequenceClassification,
        "token_classify": transformers.AutoModelForTokenClassification,
    }[kind]
    model = save(tmp_path, auto, *CLASSIFIERS[name])
    works = {str(i): PipelineWork(kind, row) for i, row in enumerate(rows())}
    got = run(loaded(tmp_path), works)
    for i, work in works.items():
        with torch.inference_mode():
            expected = model(torch.tensor([work.input_ids])).logits[0].softmax(dim=-1)
        scores = torch.tensor(got[i].scores)
        torch.testing.assert_close(scores, expected.view_as(scores), atol=1e-5, rtol=1e-4)
        assert len(scores) == (1 if kind == "classify" else len(work.input_ids))


def test_a_multi_label_classifier_gives_independent_probabilities(tmp_path: Path) -> None:
    settings = {**BERT, "problem_type": "multi_label_classification"}
    auto = transformers.AutoModelForSequenceClassification
    model = save(tmp_path, auto, "BertConfig", settings)
    got = run(loaded(tmp_path), {"a": PipelineWork("classify", (4, 5, 6))})
    with torch.inference_mode():
        expected = model(torch.tensor([[4, 5, 6]])).logits.sigmoid()
    torch.testing.assert_close(torch.tensor(got["a"].scores), expected)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert")
    save(directory, transformers.AutoModelForSequenceClassification, "BertConfig", BERT)
    return directory


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bart")
    save(directory, transformers.AutoModelForSeq2SeqLM, *SEQ2SEQ["bart"])
    return directory


LONGEST = 40
LAYER_S = 0.05
"""For a row of that length, or any step of a search."""


class Timed:
    """An engine whose clock only its layers move."""

    def __init__(self, directory: Path) -> None:
        self.now = 0.0
        self.engine = loaded(directory, clock=lambda: self.now)
        for name, module in self.engine._model.named_modules():
            if name.split(".")[-1].isdigit():
                module.register_forward_pre_hook(self._tick)

    def _tick(self, layer: Any, inputs: tuple[Any, ...]) -> None:
        num_tokens = inputs[0].shape[0] * inputs[0].shape[1]
        self.now += LAYER_S if self.engine._is_search else LAYER_S * num_tokens / LONGEST

    def steps(self, limit_s: float) -> tuple[list[float], dict[str, Any]]:
        """What each step took until all is done, and the results."""
        taken, outs = [], dict[str, Any]()
        while self.engine.has_work:
            begun = self.now
            self.engine.set_step_limit(limit_s)
            outs |= dict(self.engine.step())
            taken.append(self.now - begun)
        return taken, outs


@pytest.mark.parametrize("kind", ["bert", "bart"])
def test_steps_keep_to_a_limit_and_the_results_are_the_same(
    kind: str, request: pytest.FixtureRequest
) -> None:
    of_work: Any = "classify" if kind == "bert" else "seq2seq"
    options: dict[str, Any] = {} if kind == "bert" else {"max_tokens": 5, "num_beams": 2}
    directory = request.getfixturevalue(kind)
    texts = rows(9, LONGEST)
    works = {str(i): PipelineWork(of_work, text, options) for i, text in enumerate(texts)}
    expected = run(loaded(directory), works)
    timed = Timed(directory)
    for number in range(20):  # to learn how quick it is
        timed.engine.submit(str(number), PipelineWork(of_work, (5,) * LONGEST, options))
    timed.steps(float("inf"))
    for work_id, work in works.items():
        timed.engine.submit(work_id, work)
    taken, outs = timed.steps(LAYER_S * 1.2)
    assert LAYER_S / 2 < max(taken) <= LAYER_S * 1.2
    assert outs.keys() == expected.keys()
    for work_id, out in outs.items():
        assert out.token_ids == expected[work_id].token_ids
        scores, wanted = torch.tensor(out.scores), torch.tensor(expected[work_id].scores)
        torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=1e-4)


def test_without_a_limit_a_micro_batch_is_one_step_even_if_it_began_with_one(bert: Path) -> None:
    timed = Timed(bert)
    timed.engine.submit("a", PipelineWork("classify", (5,) * LONGEST))
    timed.engine.set_step_limit(LAYER_S)
    assert timed.engine.step() == []
    taken, outs = timed.steps(float("inf"))
    assert (len(taken), list(outs)) == (1, ["a"])
    timed.engine.submit("b", PipelineWork("classify", (5,) * LONGEST))
    taken, _ = timed.steps(float("inf"))
    assert taken == pytest.approx([2 * LAYER_S])


def test_a_forward_pass_that_nobody_waits_for_ends_between_its_layers(bert: Path) -> None:
    timed = Timed(bert)
    timed.engine.submit("gone", PipelineWork("classify", (5,) * LONGEST))
    timed.engine.set_step_limit(LAYER_S)
    assert timed.engine.step() == []
    timed.engine.cancel("gone")
    assert timed.engine.step() == []
    assert not timed.engine.has_work
    assert timed.now == pytest.approx(LAYER_S)
    timed.engine.submit("b", PipelineWork("classify", (4, 5)))
    assert list(timed.steps(LAYER_S)[1]) == ["b"]


def test_works_wait_for_the_next_micro_batch_and_can_be_cancelled(bert: Path) -> None:
    engine = loaded(bert, max_rows=2)
    for i in range(5):
        engine.submit(str(i), PipelineWork("classify", (4, 5)))
    assert [work_id for work_id, _ in engine.step()] == ["0", "1"]
    engine.cancel("3")
    engine.cancel("0")
    assert [work_id for work_id, _ in engine.step()] == ["2", "4"]
    assert not engine.has_work
    assert engine.step() == []


def test_a_pair_is_scored_with_its_type_ids_and_beside_single_texts(bert: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(bert).eval()
    pair = PipelineWork("classify", (4, 5, 6, 7, 8), type_ids=(0, 0, 0, 1, 1))
    got = run(loaded(bert), {"pair": pair, "single": PipelineWork("classify", (4, 5, 6))})
    with torch.inference_mode():
        types = torch.tensor([pair.type_ids])
        expected = model(torch.tensor([pair.input_ids]), token_type_ids=types).logits.softmax(-1)
        single = model(torch.tensor([[4, 5, 6]])).logits.softmax(-1)
    torch.testing.assert_close(torch.tensor(got["pair"].scores), expected)
    torch.testing.assert_close(torch.tensor(got["single"].scores), single)


def test_type_ids_mean_nothing_to_a_model_without_them(tmp_path: Path) -> None:
    auto = transformers.AutoModelForSequenceClassification
    save(tmp_path, auto, "GPT2Config", {**GPT2, "pad_token_id": 0, "num_labels": 1})
    engine = loaded(tmp_path)
    works = {
        "typed": PipelineWork("classify", (4, 5, 6), type_ids=(0, 0, 1)),
        "plain": PipelineWork("classify", (4, 5, 6)),
    }
    got = run(engine, works)
    assert got["typed"] == got["plain"]


def test_a_work_fails_once_its_deadline_has_passed_and_its_mates_do_not(bert: Path) -> None:
    now = [100.0]
    engine = loaded(bert, clock=lambda: now[0])
    engine.submit("late", PipelineWork("classify", (4, 5), deadline_s=2.0))
    engine.submit("early", PipelineWork("classify", (4, 5), deadline_s=4.0))
    now[0] = 103.0
    outs = dict(engine.step())
    assert isinstance(outs["late"], DeadlineExceededError)
    assert isinstance(outs["early"], PipelineOut)
    assert not engine.has_work


def test_a_step_is_shared_out_by_tokens(bert: Path) -> None:
    engine = loaded(bert)
    engine.submit("0", PipelineWork("classify", (4, 5, 6), tenant="ann"))
    engine.submit("1", PipelineWork("classify", (4,), tenant="bob"))
    engine.step()
    assert engine.last_shares() == {"ann": 0.75, "bob": 0.25}
    engine.step()
    assert engine.last_shares() == {}


def test_numbers_that_are_not_finite_fail_the_work(bert: Path) -> None:
    engine = loaded(bert)
    engine._model.classifier.bias.data.fill_(torch.inf)
    assert isinstance(run(engine, {"a": PipelineWork("classify", (4,))})["a"], EngineError)


def test_a_batch_mate_of_bad_work_is_computed(bert: Path) -> None:
    engine = loaded(bert)
    engine.submit("good", PipelineWork("classify", (4, 5)))
    with pytest.raises(InvalidRequestError):
        engine.submit("bad", PipelineWork("classify", (4, VOCAB)))
    assert isinstance(dict(engine.step())["good"], PipelineOut)


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (PipelineWork("seq2seq", ()), InvalidRequestError),
        (PipelineWork("seq2seq", (-1,)), InvalidRequestError),
        (PipelineWork("seq2seq", (3,) * 41), ContextLengthError),
        (PipelineWork("seq2seq", (3,), {"num_beams": 0}), InvalidRequestError),
        (PipelineWork("seq2seq", (3,), {"num_beams": 2.5}), InvalidRequestError),
        (PipelineWork("seq2seq", (3,), {"num_beams": True}), InvalidRequestError),
        (PipelineWork("seq2seq", (3,), {"num_beams": 10**6}), InvalidRequestError),
        (PipelineWork("seq2seq", (3,), {"max_tokens": -1}), InvalidRequestError),
        (PipelineWork("seq2seq", (3,), {"length_penalty": float("nan")}), InvalidRequestError),
        (PipelineWork("seq2seq", (3,), {"forced_bos_token_id": VOCAB}), InvalidRequestError),
        (PipelineWork("seq2seq", (3,), {"nonsense": 1}), InvalidRequestError),
        (PipelineWork("seq2seq", (3,), type_ids=(0, 1)), InvalidRequestError),
        (PipelineWork("seq2seq", (3,), type_ids=(-1,)), InvalidRequestError),
        (PipelineWork("classify", (3,)), UnsupportedTaskError),
        (GenerateWork((3,), SamplingParams()), UnsupportedTaskError),
    ],
)
def test_bad_work_is_refused(bart: Path, work: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        loaded(bart).submit("a", work)


def test_a_model_of_several_tasks_does_each_kind_of_work(tmp_path: Path) -> None:
    heads = {"classify": ["a", "b", "c"], "entities": ["O", "B-X"], "rate": [], "embed": []}
    listed = [{"task": task, "labels": labels} for task, labels in heads.items()]
    model = save(tmp_path, MultitaskEncoder, "BertConfig", {**BERT, "heads": listed})
    engine = PipelinesEngine()
    engine.load(tmp_path, {**MANIFEST, "task": "classify", "heads": heads}, "cpu", 1)
    kinds = {"classify": "classify", "token_classify": "entities", "rate": "rate", "embed": "embed"}
    works = {
        f"{kind} {number}": PipelineWork(kind, row)  # type: ignore[arg-type]
        for number, row in enumerate(rows(4))
        for kind in kinds
    }
    outs = run(engine, works)
    for name, work in works.items():
        with torch.inference_mode():
            alone = model(input_ids=torch.tensor([work.input_ids]), task=kinds[work.kind])
        if work.kind == "embed":
            assert len(outs[name].vector) == 4 * BERT["hidden_size"]
            continue
        logits = alone.logits.reshape(-1, alone.logits.shape[-1])
        expected = logits if work.kind == "rate" else logits.softmax(-1)
        assert torch.allclose(torch.tensor(outs[name].scores), expected, atol=1e-5)
    with pytest.raises(UnsupportedTaskError, match="does classify, token_classify, rate, embed"):
        engine.submit("x", PipelineWork("answer", (4,)))


def test_code_beside_a_model_is_never_run(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "model")
    marker = tmp_path / "ran"
    (tmp_path / "model" / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((bert / "config.json").read_text())
    names = ("AutoConfig", "AutoModelForSequenceClassification")
    config["auto_map"] = dict.fromkeys(names, "evil.Evil")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert run(loaded(tmp_path / "model"), {"a": PipelineWork("classify", (4,))})
    config["model_type"] = "unheard-of"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidModelError):
        loaded(tmp_path / "model")
    assert not marker.exists()


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match="architecture"):
        loaded(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["BartForConditionalGeneration"]}')
    with pytest.raises(InvalidModelError, match="cannot be loaded"):
        loaded(tmp_path)
