"""Rows with a grammar in the native engine, beside rows without one, from a random network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.engines.families import MANIFEST, greedy, make_model, run_works
from tests.unit.tasks.conftest import byte_level

from llmos.engines.native.engine import NativeEngine
from llmos.errors import GrammarError, LlmosError
from llmos.tasks.tokenizers import Tokenizer
from llmos.tasks.tool_grammar import tools_grammar
from llmos.types import GenerateWork, Grammar, SamplingParams, TokensOut, Tool, ToolUse

CONTEXT = 512
MAX_TOKENS = 200
SCHEMA = {
    "type": "object",
    "properties": {
        "yes": {"type": "boolean"},
        "mood": {"enum": ["good", "bad"]},
        "n": {"type": "integer", "maximum": 99, "minimum": 10},
    },
    "required": ["yes", "mood", "n"],
    "additionalProperties": False,
}
TOOL = Tool(
    "pick",
    parameters={
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
    },
)
GRAMMARS = {
    "json_schema": Grammar("json_schema", json.dumps(SCHEMA)),
    "regex": Grammar("regex", r"[a-z]{3}-\d{2,4}!"),
    "choice": Grammar("choice", '["yes", "no", "不"]'),
    "lark": Grammar("lark", 'start: "<" WORD ("," WORD)? ">"\nWORD: /[a-z]{1,5}/'),
    "tools": tools_grammar(ToolUse((TOOL,), "pick", parallel=False), "hermes"),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama")
    tokenizer = byte_level()
    tokenizer.save(str(directory / "tokenizer.json"))
    make_model(
        directory,
        "llama",
        vocab_size=tokenizer.get_vocab_size() + 3,
        max_position_embeddings=CONTEXT,
    )
    return directory


@pytest.fixture
def engine(directory: Path) -> NativeEngine:
    torch.set_num_threads(1)
    engine = NativeEngine()
    engine.load(directory, MANIFEST | {"context_tokens": CONTEXT}, "cpu", 1)
    return engine


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer((directory / "tokenizer.json").read_bytes())


def matches(kind: str, text: str) -> bool:
    if kind == "json_schema":
        value = json.loads(text)
        return set(value) == {"yes", "mood", "n"} and 10 <= value["n"] <= 99
    if kind == "tools":
        begin, body, end = re.split(r"(?<=<tool_call>)\n|\n(?=</tool_call>)", text)
        value = json.loads(body)
        is_call = value["name"] == "pick" and value["arguments"] in ({"n": 1}, {"n": 2})
        return (begin, end, is_call) == ("<tool_call>", "</tool_call>", True)
    patterns = {
        "regex": r"[a-z]{3}-\d{2,4}!",
        "choice": "yes|no|不",
        "lark": "<[a-z]{1,5}(,[a-z]{1,5})?>",
    }
    return re.fullmatch(patterns[kind], text) is not None


def works() -> dict[str, GenerateWork]:
    """Each grammar greedy and sampled, with many settings."""
    settings: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": 1},
        {"temperature": 1.5, "seed": 2, "top_p": 0.9, "repetition_penalty": 1.2},
        {"temperature": 0.7, "seed": 3, "top_k": 5, "no_repeat_ngram_size": 2, "logprobs": 2},
    ]
    return {
        f"{kind}/{number}": GenerateWork(
            prompt_ids=(5, 6, 7 + number),
            sampling=SamplingParams(max_tokens=MAX_TOKENS, **fields),
            eos_ids=(0,),
            grammar=grammar,
        )
        for kind, grammar in GRAMMARS.items()
        for number, fields in enumerate(settings)
    }


def test_every_output_matches_its_grammar_in_a_mixed_batch(
    engine: NativeEngine, tokenizer: Tokenizer
) -> None:
    canary = greedy((1, 2, 3), 30)
    alone = run_works(engine, {"canary": canary})
    tokens = run_works(engine, {"canary": canary, **works()}, per_step=3)
    assert tokens.pop("canary") == alone["canary"]
    for work_id, ids in tokens.items():
        text = tokenizer.decode(ids)
        assert len(ids) < MAX_TOKENS
        assert matches(work_id.partition("/")[0], text), (work_id, text)


def test_an_interrupted_output_resumes_with_the_same_tokens(engine: NativeEngine) -> None:
    whole = run_works(engine, works())
    cut = {
        work_id: GenerateWork(
            prompt_ids=work.prompt_ids,
            sampling=work.sampling,
            eos_ids=work.eos_ids,
            grammar=work.grammar,
            generated_ids=tuple(whole[work_id][: number % len(whole[work_id])]),
        )
        for number, (work_id, work) in enumerate(works().items())
    }
    rest = run_works(engine, cut)
    assert {i: [*work.generated_ids, *rest[i]] for i, work in cut.items()} == whole


def test_a_grammar_that_fails_fails_its_own_row(engine: NativeEngine) -> None:
    bad = {
        "invalid": Grammar("regex", "("),
        "unknown token": Grammar("lark", "start: <nothing>"),
        "dies midway": Grammar("regex", "((((a{1,50}){1,50}){1,50}){1,50}){1,50}b"),
    }
    canary = greedy((1, 2, 3), 40)
    expected = run_works(engine, {"canary": canary})["canary"]
    engine.submit("canary", canary)
    for name, grammar in bad.items():
        work = GenerateWork(
            prompt_ids=(5,),
            # not the "b" that would end it
            sampling=SamplingParams(temperature=0, logit_bias=((67, -100.0),)),
            eos_ids=(0,),
            grammar=grammar,
        )
        engine.submit(name, work)
    errors: dict[str, LlmosError] = {}
    tokens: list[int] = []
    is_over = False
    while not is_over or set(errors) != set(bad):
        for work_id, out in engine.step():
            if isinstance(out, LlmosError):
                errors[work_id] = out
            elif work_id == "canary":
                assert isinstance(out, TokensOut)
                tokens += [piece.token_id for piece in out.pieces]
                is_over = out.finish_reason is not None
    assert not engine.has_work
    assert set(errors) == set(bad)
    assert all(isinstance(error, GrammarError) for error in errors.values())
    assert tokens == expected
