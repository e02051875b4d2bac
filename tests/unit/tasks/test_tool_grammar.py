"""Calls with names before their arguments, and calls beside a format for the answer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from tests.unit.tasks.test_grammar import SPECIAL_IDS, TOOLS, WRITERS, Bytes, call, takes

from llmos.engines.grammars import compile_grammar, python_matchers
from llmos.errors import InvalidRequestError
from llmos.tasks.tool_grammar import tools_grammar
from llmos.tasks.tools import FORMATS, ToolParser
from llmos.types import Grammar, Tool, ToolCallDelta, ToolUse

MARKERS = ["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"]
IDS = {marker: 257 + i for i, marker in enumerate(MARKERS)}
CALL_ID = "[CALL_ID]a1B2c3D4e"


class MistralBytes(Bytes):
    tokens = Bytes.tokens[:257] + [marker.encode() for marker in MARKERS]
    special_token_ids = tuple(range(256, 260))


def takes_mistral(grammar: Grammar, text: str, ids: dict[str, int]) -> bool:
    """Whether the grammar takes the text as a whole, its markers as special tokens if they are."""
    tokenizer = LLTokenizer(MistralBytes(), eos_token=[256])  # type: ignore[arg-type]
    matcher: LLMatcher = compile_grammar(python_matchers(tokenizer), grammar)
    pattern = "|".join(map(re.escape, ids)) or r"\Z"
    for part in re.split(f"({pattern})", text):
        tokens = [ids[part]] if part in ids else list(part.encode())
        if tokens and matcher.try_consume_tokens(tokens) < len(tokens):
            return False
    return matcher.is_accepting()


def named(name: str, call_id: str = "", **arguments: Any) -> str:
    return f"[TOOL_CALLS]{name}{call_id}[ARGS]{json.dumps(arguments, ensure_ascii=False)}"


def parsed(text: str) -> list[tuple[str, Any]]:
    """What the parser makes of a text that is nothing but calls."""
    parser = ToolParser(FORMATS["mistral_args"], [tool.name for tool in TOOLS], eager=False)
    parts = [part for char in text for part in parser.push(char)] + parser.flush()
    calls: dict[int, list[str]] = {}
    for part in parts:
        assert isinstance(part, ToolCallDelta), part
        of_call = calls.setdefault(part.index, ["", ""])
        of_call[0] += part.name or ""
        of_call[1] += part.arguments
    return [(name, json.loads(arguments)) for name, arguments in calls.values()]


TREE = {"$ref": "oak", "child": {"$ref": "x", "child": {"$ref": "y"}}}
GOOD: dict[str, list[tuple[str, Any]]] = {
    named("get_weather", city="北京", days=3): [("get_weather", {"city": "北京", "days": 3})],
    named("get_weather", city="Paris") + named("get", a=[1, {"b": None}]): [
        ("get_weather", {"city": "Paris"}),
        ("get", {"a": [1, {"b": None}]}),
    ],
    named("plant", **TREE): [("plant", TREE)],
    named("get"): [("get", {})],
}
BAD = [
    "Hello.",
    "",
    named("get_weather"),
    named("get_weather", city="Rome"),
    named("get_weather", city="Paris", more=1),
    named("get_"),
    named("plant", child={}),
    named("get") + " and so on",
    named("get")[:-1],
    named("get").replace("[ARGS]", ""),
    named("get").replace("[ARGS]{}", "[ARGS][1]"),
    named("get").replace("{", "{ "),
    f"[TOOL_CALLS][{call('get')}]",
]


@pytest.mark.parametrize("ids", [{}, IDS], ids=["text", "special"])
def test_named_calls_with_valid_arguments_match_and_are_read_again(ids: dict[str, int]) -> None:
    grammar = tools_grammar(ToolUse(TOOLS, "required"), "mistral_args", ids)
    for text, calls in GOOD.items():
        assert takes_mistral(grammar, text, ids), text
        assert parsed(text) == calls
    assert [text for text in BAD if takes_mistral(grammar, text, ids)] == []


def test_a_call_has_an_id_only_where_the_model_has_a_token_for_that() -> None:
    use, text = ToolUse(TOOLS, "required"), named("get", CALL_ID)
    assert takes_mistral(tools_grammar(use, "mistral_args", IDS), text, IDS)
    assert not takes_mistral(tools_grammar(use, "mistral_args", IDS), text.replace("a1", ""), IDS)
    others = {marker: i for marker, i in IDS.items() if marker != "[CALL_ID]"}
    assert not takes_mistral(tools_grammar(use, "mistral_args", others), text, others)
    assert parsed(text) == [("get", {})]


def test_a_named_tool_and_a_single_call_are_kept_to() -> None:
    only = tools_grammar(ToolUse(TOOLS, "get"), "mistral_args", IDS)
    assert takes_mistral(only, named("get"), IDS)
    assert not takes_mistral(only, named("get_weather", city="Paris"), IDS)
    single = tools_grammar(ToolUse(TOOLS, "required", parallel=False), "mistral_args", IDS)
    assert takes_mistral(single, named("get"), IDS)
    assert not takes_mistral(single, named("get") + named("get"), IDS)
    clock = tools_grammar(ToolUse((Tool("clock"),), "required"), "mistral_args", IDS)
    assert takes_mistral(clock, named("clock"), IDS)
    assert not takes_mistral(clock, named("clock", a=1), IDS)


ANSWER = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("ids", [None, SPECIAL_IDS], ids=["text", "special"])
@pytest.mark.parametrize("form", WRITERS)
def test_beside_a_format_a_call_or_an_answer_in_it_matches(
    form: str, ids: dict[str, int] | None
) -> None:
    write, key = WRITERS[form], "parameters" if form == "llama3" else "arguments"
    formed = Grammar("json_schema", json.dumps(ANSWER))
    grammar = tools_grammar(ToolUse(TOOLS), form, ids, formed)
    calls = write(call("get_weather", key, city="Paris"), call("get", key))
    assert takes(grammar, calls, ids)
    assert takes(grammar, '{"sum": 3}', ids)
    for bad in ("Hello.", '{"sum": "3"}', '{"sum": 3}' + calls, calls + '{"sum": 3}', ""):
        assert not takes(grammar, bad, ids), bad
    anything = tools_grammar(ToolUse(TOOLS), form, ids, Grammar("json_object"))
    assert takes(anything, '{"x": [1]}', ids)
    assert not takes(anything, "[1]", ids)
    required = tools_grammar(ToolUse(TOOLS, "required"), form, ids, formed)
    assert takes(required, calls, ids)
    assert not takes(required, '{"sum": 3}', ids)


def test_named_calls_and_a_format_go_together() -> None:
    grammar = tools_grammar(ToolUse(TOOLS), "mistral_args", IDS, Grammar("json_object"))
    assert takes_mistral(grammar, named("get") + named("get"), IDS)
    assert takes_mistral(grammar, '{"a": 1}', IDS)


@pytest.mark.parametrize("choice", ["auto", "required", "get"])
@pytest.mark.parametrize("kind", ["regex", "choice", "lark"])
def test_a_format_that_is_no_json_cannot_stand_beside_calls(kind: Any, choice: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tools_grammar(ToolUse(TOOLS, choice), "hermes", None, Grammar(kind, "x"))
    assert caught.value.param == "tool_choice"
