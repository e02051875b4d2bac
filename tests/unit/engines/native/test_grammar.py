"""Whatever the network says, the output matches the grammar: random logits stand for one."""

from __future__ import annotations

import json
import re
import sys
import threading
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from llguidance import LLMatcher
from tests.unit.tasks.conftest import FAMILIES

from llmos.engines.native import matching, vocabulary
from llmos.engines.native.grammar import Grammars, GrammarState
from llmos.engines.native.sampler import SampledRow, sample
from llmos.engines.native.vocabulary import Vocabulary
from llmos.errors import EngineError, GrammarError, UnsupportedTaskError
from llmos.tasks.tokenizers import Detokenizer, Tokenizer
from llmos.types import Grammar, SamplingParams

STARTER = Path(__file__).parents[4] / "src/llmos/starter/models/starter-chat/tokenizer.json"
PADDING = 5
"""More logits than the tokenizer has tokens, as many models have."""
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
CHOICES = ['He said "hi"\n', "你好😀", "\\d", "a", "ab", "</s>"]
Matches = Callable[[str], bool]


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        isinstance(value["name"], str)
        and 0 <= value["age"] <= 150
        and set(value) <= {"name", "age", "tags"}
        and set(value.get("tags", [])) <= {"a", "b"}
    )


GRAMMARS: dict[str, tuple[Grammar, Matches]] = {
    "json_object": (Grammar("json_object"), lambda text: isinstance(json.loads(text), dict)),
    "json_schema": (Grammar("json_schema", json.dumps(PERSON)), is_person),
    "regex": (
        Grammar("regex", r'^[a-z]{2,6}/\d+ "q"\n$'),
        lambda text: re.fullmatch(r'[a-z]{2,6}/\d+ "q"\n', text) is not None,
    ),
    "choice": (Grammar("choice", json.dumps(CHOICES)), lambda text: text in CHOICES),
    "lark": (
        Grammar("lark", 'start: "sum " NUMBER ("+" NUMBER){1,3}\nNUMBER: /[0-9]{1,3}/'),
        lambda text: re.fullmatch(r"sum \d{1,3}(\+\d{1,3}){1,3}", text) is not None,
    ),
}


class Model:
    """A tokenizer and random logits."""

    def __init__(self, directory: Path, tokenizer_json: str, eos_ids: tuple[int, ...]) -> None:
        path = directory / "tokenizer.json"
        path.write_text(tokenizer_json)
        self.tokenizer = Tokenizer(tokenizer_json.encode())
        self.vocab_size = self.tokenizer.vocab_size + PADDING
        self.eos_ids = eos_ids
        self.grammars = Grammars(path, self.vocab_size)

    def start(self, grammar: Grammar, generated_ids: Sequence[int] = ()) -> GrammarState:
        return self.grammars.start(grammar, self.eos_ids, generated_ids).result()

    def write(
        self, state: GrammarState, seed: int, max_tokens: int = 600, **fields: Any
    ) -> tuple[list[int], bool]:
        """Continue as the engine does; return the tokens, and whether they came to an end."""
        generator = torch.Generator().manual_seed(seed)
        # Closing what was opened is made likely, for texts to end.
        bias = torch.zeros(self.vocab_size)
        for text in ('"', "}", "]"):
            bias[[self.tokenizer.token_id(text) or 0]] = 6
        bias[list(self.eos_ids)] = 6
        ids: list[int] = []
        while len(ids) < max_tokens:
            logits = torch.randn(1, self.vocab_size, generator=generator) * 2 + bias
            row = SampledRow(SamplingParams(seed=seed, **fields), 0, [1, *ids], 1, state)
            [piece] = sample(logits, [row])
            if piece is None:
                return ids, state.is_finished
            state.accept(piece.token_id)
            if piece.token_id in self.eos_ids:
                return ids, True
            ids.append(piece.token_id)
            if state.is_finished:
                return ids, True
        return ids, False

    def text(self, ids: Sequence[int]) -> str:
        pieces = Detokenizer(self.tokenizer, ())
        return "".join(map(pieces.push, ids))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    made = {
        name: Model(tmp_path_factory.mktemp(name), FAMILIES[name]().to_str(), eos_ids)
        for name, eos_ids in {"byte_level": (0,), "byte_fallback": (2,), "characters": ()}.items()
    }
    made["starter"] = Model(tmp_path_factory.mktemp("starter"), STARTER.read_text(), (0, 1))
    return made


@pytest.mark.parametrize(
    "fields", [{"temperature": 0}, {"temperature": 1.5}, {"top_k": 20}], ids=str
)
@pytest.mark.parametrize("kind", GRAMMARS)
@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "starter"])
def test_the_output_of_a_random_network_matches(
    models: dict[str, Model], name: str, kind: str, fields: dict[str, Any]
) -> None:
    model = models[name]
    grammar, matches = GRAMMARS[kind]
    num_ended = 0
    for seed in range(4):
        ids, is_ended = model.write(model.start(grammar), seed, **fields)
        num_ended += is_ended
        assert not is_ended or matches(model.text(ids)), model.text(ids)
    assert num_ended >= 2


def test_a_model_without_an_end_token_stops_where_the_grammar_does(
    models: dict[str, Model],
) -> None:
    model = models["characters"]
    ids, is_ended = model.write(model.start(Grammar("regex", "The (quick|lazy) (fox|dog)")), 0)
    assert is_ended
    assert model.text(ids).split()[0] == "The"
    ids, is_ended = model.write(model.start(Grammar("regex", "(lazy )*")), 0, max_tokens=50)
    assert not is_ended
    assert model.text(ids).startswith("lazy lazy ")


def test_what_the_vocabulary_cannot_write_fails_the_row_alone(models: dict[str, Model]) -> None:
    model = models["characters"]
    state = model.start(Grammar("regex", "(a|b) = 1"))  # it has no "=" and no "1"
    ids, is_ended = model.write(state, 0)
    assert (model.text(ids) in ("a ", "b "), is_ended) == (True, False)
    assert isinstance(state.error, GrammarError)
    assert "vocabulary" in state.error.message
    with pytest.raises(GrammarError, match="vocabulary"):
        model.start(Grammar("regex", "=1"))
    logits = torch.randn(2, model.vocab_size)
    rows = [SampledRow(SamplingParams(temperature=0), 0, [1], 1, one) for one in (state, None)]
    first, second = sample(logits, rows)
    assert first is None
    assert second is not None


def test_a_limit_met_midway_fails_the_row_with_a_typed_error(models: dict[str, Model]) -> None:
    model = models["byte_level"]
    state = model.start(Grammar("regex", "((((a{1,50}){1,50}){1,50}){1,50}){1,50}"))
    letter = model.tokenizer.token_id("a")
    scores = torch.zeros(model.vocab_size)
    for _ in range(50):
        scores = torch.zeros(model.vocab_size)
        state.mask(scores)
        state.accept(letter or 0)
    assert scores.isneginf().all()
    assert isinstance(state.error, GrammarError)
    assert state.error.status == 400
    assert not state.is_finished


@pytest.mark.parametrize("kind", GRAMMARS)
def test_a_resumed_row_goes_on_as_if_undisturbed(models: dict[str, Model], kind: str) -> None:
    model = models["starter"]
    grammar, _ = GRAMMARS[kind]
    whole, _ = model.write(model.start(grammar), 1, temperature=0)
    logits = torch.randn(1, model.vocab_size)
    for cut in range(len(whole)):
        resumed, undisturbed = model.start(grammar, whole[:cut]), model.start(grammar)
        for token_id in whole[:cut]:
            undisturbed.accept(token_id)
        one, other = logits[0].clone(), logits[0].clone()
        resumed.mask(one)
        undisturbed.mask(other)
        assert torch.equal(one, other)
        assert one[whole[cut]].isfinite()


def test_tokens_that_break_the_grammar_cannot_be_resumed(models: dict[str, Model]) -> None:
    model = models["byte_level"]
    wrong = model.tokenizer.encode_now("no").ids
    with pytest.raises(GrammarError, match="already breaks"):
        model.start(GRAMMARS["json_object"][0], wrong)


def test_masking_forbids_padding_and_special_tokens(models: dict[str, Model]) -> None:
    model = models["starter"]
    scores = torch.zeros(model.vocab_size)
    model.start(Grammar("regex", r"(?s:.*)")).mask(scores)
    possible = scores.isfinite().nonzero()[:, 0].tolist()
    assert {0, 1} <= set(possible)  # the end
    assert 2 not in possible  # <|im_start|>
    assert max(possible) < model.tokenizer.vocab_size
    assert len(possible) > model.tokenizer.vocab_size - 200  # but pieces of characters


def test_special_tokens_can_be_asked_for_by_id(models: dict[str, Model]) -> None:
    model = models["starter"]
    ids, is_ended = model.write(model.start(Grammar("lark", 'start: <[2]> "yes"')), 0)
    assert is_ended
    assert ids[0] == 2
    assert model.text(ids[1:]) == "yes"


def test_the_grammar_goes_before_penalties_that_leave_no_token(models: dict[str, Model]) -> None:
    model = models["byte_level"]
    state = model.start(Grammar("regex", "a{20}"))
    ids, is_ended = model.write(state, 0, no_repeat_ngram_size=1)
    assert is_ended
    assert model.text(ids) == "a" * 20


def test_a_mask_costs_no_more_when_asked_again(models: dict[str, Model]) -> None:
    state = models["byte_level"].start(Grammar("regex", "a|b"))
    first, second = torch.zeros(2, models["byte_level"].vocab_size)
    state.mask(first)
    state._matcher = None  # type: ignore[assignment] # what was found is remembered
    state.mask(second)
    assert torch.equal(first, second)


def test_a_tokenizer_that_does_not_keep_the_text_is_refused(tmp_path: Path) -> None:
    model = Model(tmp_path, FAMILIES["words"]().to_str(), (2,))
    with pytest.raises(UnsupportedTaskError, match="exact text"):
        model.start(Grammar("json_object"))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"model": {}}'])
def test_a_missing_or_damaged_tokenizer_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UnsupportedTaskError, match="tokenizer"):
        Grammars(path, 10).start(Grammar("json_object"), (0,)).result()


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (Grammar("regex", "("), "regular expression"),
        (Grammar("regex", "a(?=b)"), "look-around"),
        (Grammar("json_schema", '{"not": {}}'), "not"),
        (Grammar("json_schema", '{"$ref": "http://example.com/x.json"}'), "example.com"),
        (Grammar("json_schema", "{"), "cannot be read"),
        (Grammar("lark", "begin: 'a'"), "Lark"),
        (Grammar("lark", "start: <no_such_token>"), "no_such_token"),
    ],
)
def test_a_grammar_that_cannot_be_used_says_why(
    models: dict[str, Model], grammar: Grammar, message: str
) -> None:
    with pytest.raises(GrammarError, match=message):
        models["starter"].start(grammar)


# -- nobody waits for a vocabulary -----------------------------------------------------------------


def words(num_tokens: int) -> Vocabulary:
    texts = [b"\xff</s>", *(f"w{i}".encode() for i in range(1, num_tokens))]
    sizes = array("I", map(len, texts))
    return Vocabulary(b"".join(texts), sizes.tobytes(), (0,))


def test_other_threads_run_while_a_large_vocabulary_is_built() -> None:
    """No thread is made to let go of the lock here, so another runs only if it is let go of."""
    assert matching.library() is not None
    whole, begun = words(100_000), threading.Event()
    order: list[str] = []

    def build() -> None:
        begun.set()
        matching.matchers(whole)
        order.append("built")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread = threading.Thread(target=build)
        thread.start()
        begun.wait()
        order.append("ran")
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert order == ["ran", "built"]


def test_the_engine_reads_no_tokenizer_itself(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(FAMILIES["byte_level"]().to_str())
    here = vocabulary.read_here(path, 310, (0, 1))
    monkeypatch.delattr(vocabulary, "_token_bytes")
    assert vocabulary.read(path, 310, (0, 1)) == here
    assert (here.num_tokens, here.eos_ids) == (310, (0, 1))
    assert here.tokens()[:2] == [b"\xff<|end|>", b"\xff<|user|>"]
    assert here.tokens()[-1] == b""


@pytest.mark.parametrize("kind", GRAMMARS)
def test_masks_are_the_same_where_the_library_has_no_c_interface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = Model(tmp_path, STARTER.read_text(), (0, 1))
    ids, _ = model.write(model.start(GRAMMARS[kind][0]), 3)
    monkeypatch.setattr(matching, "library", lambda: None)
    plain = Model(tmp_path, STARTER.read_text(), (0, 1))
    assert isinstance(plain.start(GRAMMARS[kind][0])._matcher, LLMatcher)
    one, other = model.start(GRAMMARS[kind][0]), plain.start(GRAMMARS[kind][0])
    for token_id in ids:
        scores = torch.zeros(2, model.vocab_size)
        one.mask(scores[0])
        other.mask(scores[1])
        assert torch.equal(scores[0], scores[1])
        one.accept(token_id)
        other.accept(token_id)
        assert one.is_finished == other.is_finished


def test_an_interface_that_is_laid_out_otherwise_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matching, "_DEFAULTS", (1, *matching._DEFAULTS[1:]))
    matching.library.cache_clear()
    try:
        assert matching.library() is None
    finally:
        monkeypatch.undo()
        matching.library.cache_clear()


def test_a_vocabulary_that_makes_no_sense_is_refused() -> None:
    whole = words(10)
    with pytest.raises(EngineError, match="EOS"):
        matching.matchers(Vocabulary(whole.text, whole.sizes, (10,)))
