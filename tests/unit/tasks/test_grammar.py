"""Grammars are checked before an engine sees them; those of tool calls are written here."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from llmos.engines.grammars import compile_grammar, python_matchers
from llmos.errors import GrammarError, InvalidRequestError, OverloadedError
from llmos.tasks.grammar import Check, Grammars, check_size
from llmos.tasks.sandbox import SandboxBrokenError, SandboxTimeoutError
from llmos.tasks.tool_grammar import tools_grammar
from llmos.types import Grammar, Tool, ToolUse

WEATHER = Tool(
    "get_weather",
    parameters={
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/City"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"City": {"enum": ["Paris", "北京"]}},
    },
)
TREE = Tool(
    "plant",
    parameters={
        "properties": {"$ref": {"type": "string"}, "child": {"$ref": "#"}},
        "required": ["$ref"],
        "additionalProperties": False,
    },
)
ANYTHING = Tool("get", parameters={"type": "object"})
TOOLS = (WEATHER, TREE, ANYTHING)

REFUSED: dict[str, Grammar] = {
    "a megabyte of schema": Grammar("json_schema", json.dumps({"enum": ["x" * 10**6]})),
    "deep": Grammar("json_schema", '{"items":' * 70 + "{}" + "}" * 70),
    "deeper than Python": Grammar("json_schema", "[" * 100_000),
    "not JSON": Grammar("json_schema", "{'type': 'object'}"),
    "not an object": Grammar("json_schema", "[]"),
    "unknown type": Grammar("json_schema", '{"type": "strng"}'),
    "cannot be enforced": Grammar("json_schema", '{"not": {"type": "string"}}'),
    "no such reference": Grammar("json_schema", '{"$ref": "#/$defs/none"}'),
    "remote reference": Grammar("json_schema", '{"$ref": "http://127.0.0.1/x.json"}'),
    "contradiction": Grammar("json_schema", '{"type": "string", "minLength": 3, "maxLength": 2}'),
    "too many ways": Grammar(
        "json_schema",
        json.dumps(
            {
                "allOf": [
                    {"anyOf": [{"properties": {f"{i}{j}": {"type": "null"}}} for j in range(5)]}
                    for i in range(12)
                ]
            }
        ),
    ),
    "lone surrogate": Grammar("json_schema", '{"const": "\ud800"}'),
    "escaped lone surrogate": Grammar("json_schema", r'{"const": "\ud800"}'),
    "open group": Grammar("regex", "(a"),
    "look-ahead": Grammar("regex", "a(?!b)"),
    "back reference": Grammar("regex", r"(a)\1"),
    "nested groups": Grammar("regex", "(" * 5000 + "a" + ")" * 5000),
    "long": Grammar("regex", "a" * 20_000),
    "no choices": Grammar("choice", "[]"),
    "choices of numbers": Grammar("choice", "[1, 2]"),
    "too many choices": Grammar("choice", json.dumps([str(i) for i in range(5000)])),
    "no start": Grammar("lark", 'begin: "a"'),
    "deep Lark": Grammar("lark", "start: " + "(" * 5000 + '"a"' + ")" * 5000),
    "a chain that overflows the stack": Grammar(
        "lark", "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(9000)) + 'a9000: "x"'
    ),
}
BOMBS: dict[str, Grammar] = {
    "repeats of repeats": Grammar("regex", "((((a{1,50}){1,50}){1,50}){1,50}){1,50}"),
    "exponential automaton": Grammar("regex", "(a|b)*a(a|b){30}"),
    "stars of stars": Grammar("regex", "(x+x+)+y" * 500),
    "many patterns": Grammar(
        "json_schema",
        json.dumps(
            {
                "properties": {
                    f"p{i}": {"type": "string", "pattern": f"a.*b{i}"} for i in range(5000)
                }
            }
        ),
    ),
    "doubling references": Grammar(
        "json_schema",
        json.dumps(
            {
                "$ref": "#/$defs/0",
                "$defs": {
                    **{str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(40)},
                    "40": {},
                },
            }
        ),
    ),
}
"""May compile or not, but in time."""


@pytest.fixture
async def grammars() -> AsyncIterator[Grammars]:
    made = Grammars()
    yield made
    await made.close()


async def test_bad_grammars_are_refused_in_time_with_the_field_named(grammars: Grammars) -> None:
    for name, grammar in REFUSED.items():
        begun = time.monotonic()
        with pytest.raises(GrammarError) as caught:
            await grammars.check(grammar, "response_format")
        assert (caught.value.param, caught.value.status) == ("response_format", 400), name
        assert len(caught.value.message) < 700, name
        assert time.monotonic() - begun < 2, name


async def test_bombs_are_answered_in_time(grammars: Grammars) -> None:
    for name, grammar in BOMBS.items():
        begun = time.monotonic()
        try:
            await grammars.check(grammar, "regex")
        except GrammarError as error:
            assert error.param == "regex", name
        assert time.monotonic() - begun < 2, name


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_object"),
        Grammar("json_schema", json.dumps(WEATHER.parameters)),
        Grammar("json_schema", "{}"),
        Grammar("regex", r"^\d{3}-[a-z]+$"),
        Grammar("choice", '["", "yes", "no \\u4f60"]'),
        Grammar("lark", 'start: <|special|> "a" <[151657]> /b+/'),
        tools_grammar(ToolUse(TOOLS, "required"), "hermes", {"<tool_call>": 7}),
    ],
    ids=lambda grammar: grammar.kind,
)
async def test_good_grammars_pass(grammars: Grammars, grammar: Grammar) -> None:
    await grammars.check(grammar, "response_format")


async def test_what_was_found_is_remembered(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = Grammar("regex", "a"), Grammar("regex", "(")
    await grammars.check(good, "regex")
    with pytest.raises(GrammarError) as first:
        await grammars.check(bad, "regex")
    monkeypatch.setattr(grammars, "_sandbox", None)
    await grammars.check(good, "regex")
    with pytest.raises(GrammarError) as second:
        await grammars.check(bad, "other")
    assert (second.value.message, second.value.param) == (first.value.message, "other")
    monkeypatch.undo()


class SlowSandbox:
    """A helper that never answers, or breaks."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked: list[Check] = []

    async def ask(self, question: Check, timeout_s: float, *, owner: str, key: bytes) -> Any:
        self.asked.append(question)
        raise self.error

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "expected", "times_asked"),
    [
        (SandboxTimeoutError(), GrammarError, 2),
        (SandboxBrokenError(), GrammarError, 1),
        (OverloadedError(), OverloadedError, 2),
    ],
)
async def test_a_helper_that_gives_no_answer_is_the_grammars_fault(
    grammars: Grammars, error: Exception, expected: type[Exception], times_asked: int
) -> None:
    slow: Any = SlowSandbox(error)
    grammars._sandbox = slow
    for _ in range(2):
        with pytest.raises(expected):
            await grammars.check(Grammar("regex", "a"), "regex")
    assert len(slow.asked) == times_asked


async def test_checks_at_once_all_get_their_own_answer(grammars: Grammars) -> None:
    async def check(number: int) -> bool:
        try:
            await grammars.check(Grammar("regex", "a" * number + "(" * (number % 2)), "regex")
        except GrammarError:
            return False
        return True

    assert await asyncio.gather(*map(check, range(20))) == [i % 2 == 0 for i in range(20)]


def test_the_server_side_loads_neither_torch_nor_llguidance() -> None:
    program = (
        "import sys, llmos.tasks.tool_grammar; from llmos.types import *; "
        "llmos.tasks.tool_grammar.tools_grammar(ToolUse((Tool('a'),), 'required'), 'hermes');"
        "assert not {'torch', 'llguidance'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# -- tool calls ------------------------------------------------------------------------------------

MARKERS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]"]


class Bytes:
    """A token a byte, then the end, then the markers as special tokens."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256
    tokens = [bytes([byte]) for byte in range(256)] + [b"</s>"] + [m.encode() for m in MARKERS]
    special_token_ids = tuple(range(256, 260))

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


SPECIAL_IDS = {marker: 257 + i for i, marker in enumerate(MARKERS)}


def takes(grammar: Grammar, text: str, ids: dict[str, int] | None = None) -> bool:
    """Whether the grammar takes the text as a whole, its markers as special tokens if they are."""
    tokenizer = LLTokenizer(Bytes(), eos_token=[256])  # type: ignore[arg-type]
    matcher: LLMatcher = compile_grammar(python_matchers(tokenizer), grammar)
    pattern = "|".join(map(re.escape, ids or ()))
    for part in re.split(f"({pattern})" if pattern else r"(\Z)", text):
        tokens = [ids[part]] if ids and part in ids else list(part.encode())
        if tokens and matcher.try_consume_tokens(tokens) < len(tokens):
            return False
    return matcher.is_accepting()


def call(name: str, key: str = "arguments", **arguments: Any) -> str:
    return json.dumps({"name": name, key: arguments}, ensure_ascii=False)


def hermes(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in calls)


def mistral(*calls: str) -> str:
    return f"[TOOL_CALLS][{', '.join(calls)}]"


def llama3(*calls: str) -> str:
    return "; ".join(calls)


WRITERS = {"hermes": hermes, "mistral": mistral, "llama3": llama3}


@pytest.mark.parametrize("ids", [None, SPECIAL_IDS], ids=["text", "special"])
@pytest.mark.parametrize("form", WRITERS)
def test_calls_with_valid_arguments_and_nothing_else_match(
    form: str, ids: dict[str, int] | None
) -> None:
    write = WRITERS[form]
    key = "parameters" if form == "llama3" else "arguments"

    def one(name: str, **arguments: Any) -> str:
        return call(name, key, **arguments)

    grammar = tools_grammar(ToolUse(TOOLS, "required"), form, ids)
    good = [
        write(one("get_weather", city="北京", days=3)),
        write(one("get_weather", city="Paris"), one("get", a=[1, {"b": None}])),
        write(one("plant", **{"$ref": "oak", "child": {"$ref": "x", "child": {"$ref": "y"}}})),
        write(one("get")),
    ]
    bad = [
        "Hello.",
        "",
        write(one("get_weather")),
        write(one("get_weather", city="Rome")),
        write(one("get_weather", city="Paris", more=1)),
        write(one("nothing")),
        write(one("plant", child={})),
        write(one("get")) + " and so on",
        write(one("get"))[:-1],
        write("{}"),
        write(json.dumps({"name": "get", key: [1]})),
    ]
    assert [takes(grammar, text, ids) for text in good] == [True] * len(good)
    assert [takes(grammar, text, ids) for text in bad] == [False] * len(bad)


@pytest.mark.parametrize("form", WRITERS)
def test_a_named_tool_and_a_single_call_are_kept_to(form: str) -> None:
    write = WRITERS[form]
    key = "parameters" if form == "llama3" else "arguments"
    named = tools_grammar(ToolUse(TOOLS, "get"), form)
    assert takes(named, write(call("get", key)))
    assert not takes(named, write(call("get_weather", key, city="Paris")))
    single = tools_grammar(ToolUse(TOOLS, "required", parallel=False), form)
    assert takes(single, write(call("get", key)))
    assert not takes(single, write(call("get", key), call("get", key)))


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "ages": {"type": "array", "minItems": 2}},
    "required": ["name", "ages"],
}
COMPACT = ['{"name":"a","ages":[1,{"b":2}]}', '{"name": "a", "ages": [1, {"b": 2}]}']
SPACED = [
    '{ "name":"a","ages":[1,2]}',
    '{\r\n"name":"a","ages":[1,2]}',
    '{"name" :"a","ages":[1,2]}',
    '{"name":  "a","ages":[1,2]}',
    '{"name":\n"a","ages":[1,2]}',
    '{"name":"a","ages":[1,2] }',
    '{"name":"a","ages":[1,2]} ',
    '{"name":"a","ages":[1, {"b" : 2}]}',
]


@pytest.mark.parametrize(
    "grammar",
    [Grammar("json_object"), Grammar("json_schema", json.dumps(PERSON))],
    ids=lambda grammar: grammar.kind,
)
def test_json_has_no_white_space_but_a_space_after_commas_and_colons(grammar: Grammar) -> None:
    assert [takes(grammar, text) for text in COMPACT] == [True] * len(COMPACT)
    assert [takes(grammar, text) for text in SPACED] == [False] * len(SPACED)


def test_a_schema_may_ask_for_white_space() -> None:
    schema = {**PERSON, "x-guidance": {"whitespace_flexible": True}}
    grammar = Grammar("json_schema", json.dumps(schema))
    assert takes(grammar, json.dumps({"name": "a", "ages": [1, 2]}, indent=2))
    bounded = Grammar("json_schema", json.dumps({**PERSON, "x-guidance": 5}))
    with pytest.raises(GrammarError, match="x-guidance must be an object"):
        takes(bounded, "{}")


@pytest.mark.parametrize("form", WRITERS)
def test_calls_have_no_white_space_to_drown_in(form: str) -> None:
    write = WRITERS[form]
    key = "parameters" if form == "llama3" else "arguments"
    grammar = tools_grammar(ToolUse(TOOLS, "required"), form)
    one, other = call("get", key, a=1), call("get", key)
    assert takes(grammar, write(one, other))
    for drowned in (one.replace("{", "{ ", 1), one[:-1] + " }", one.replace(": ", ":\n", 1)):
        assert not takes(grammar, write(one, drowned))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('start: a\na: "x" b\n', 'line 2, column 4: unknown name: "b"'),
        ('start: "x" (', "line 1, column 13: Expected"),
        ('start: "x"\n\nb: ~', "line 3, column 5: Expected"),
        ('start: "x', "line 1, column"),
    ],
)
async def test_what_is_wrong_with_lark_is_told_by_the_users_own_lines(
    grammars: Grammars, source: str, expected: str
) -> None:
    with pytest.raises(GrammarError) as caught:
        await grammars.check(Grammar("lark", source), "grammar")
    message = caught.value.message
    assert expected in message
    assert not re.search(r"llguidance|no_forcing|\d \||\^", message), message


@pytest.mark.parametrize("schema", ['{"$ref": "#"}', '{"anyOf": [{"$ref": "#"}]}'])
async def test_a_schema_of_nothing_but_itself_is_said_to_match_nothing(
    grammars: Grammars, schema: str
) -> None:
    with pytest.raises(GrammarError, match="no text matches it: it asks for itself"):
        await grammars.check(Grammar("json_schema", schema), "response_format")


def test_mistral_may_put_a_space_before_the_list() -> None:
    grammar = tools_grammar(ToolUse(TOOLS, "required"), "mistral")
    assert takes(grammar, mistral(call("get")).replace("][", "] ["))


@pytest.mark.parametrize("kind", ["string", ["array", "null"]], ids=str)
def test_parameters_that_are_no_object_are_refused(kind: str | list[str]) -> None:
    use = ToolUse((Tool("f", parameters={"type": kind}),), "required")
    with pytest.raises(GrammarError, match="of type object") as caught:
        tools_grammar(use, "hermes")
    assert caught.value.param == "tools"


def test_deep_parameters_are_refused_with_the_tool_named() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"properties": {"a": deep}}
    with pytest.raises(GrammarError, match=r"'f'.*nested") as caught:
        tools_grammar(ToolUse((Tool("f", parameters=deep),), "required"), "hermes")
    assert caught.value.param == "tools"


def test_a_tool_that_is_not_there_cannot_be_chosen() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tools_grammar(ToolUse(TOOLS, "fly"), "hermes")
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("form", ["hermes", "llama3", "mistral"])
def test_a_tool_without_parameters_takes_an_empty_object(form: str) -> None:
    write = WRITERS[form]
    key = "parameters" if form == "llama3" else "arguments"
    grammar = tools_grammar(ToolUse((Tool("clock"),), "required"), form)
    assert takes(grammar, write(call("clock", key)))
    assert not takes(grammar, write(call("clock", key, a=1)))


@pytest.mark.parametrize(
    ("kind", "subject"),
    [("lark", "The grammar"), ("regex", "The regular expression"), ("json_schema", "The JSON sch")],
)
def test_an_error_of_size_names_its_subject(kind: Any, subject: str) -> None:
    with pytest.raises(GrammarError) as raised:
        check_size(Grammar(kind, "x" * 300_000))
    assert raised.value.message.startswith(subject)
    assert "300000 bytes" in raised.value.message
