from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.tasks.tools import FORMATS, ToolParser, takes_tools, tool_format
from llmos.types import ToolCallDelta

Calls = list[tuple[str, str]]


def run(
    form: str, pieces: list[str], *, eager: bool = True, is_parallel: bool = True
) -> tuple[str, Calls, int]:
    parser = ToolParser(FORMATS[form], ["f", "g"], eager=eager, is_parallel=is_parallel)
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.flush()
    calls: dict[int, tuple[str, str]] = {}
    for part in parts:
        if isinstance(part, ToolCallDelta):
            name, arguments = calls.get(part.index, ("", ""))
            assert (part.id is not None) == (part.index not in calls)
            calls[part.index] = (name + (part.name or ""), arguments + part.arguments)
    content = "".join(part for part in parts if isinstance(part, str))
    return content, list(calls.values()), parser.num_calls


CASES: list[tuple[str, str, str, Calls]] = [
    ("hermes", "Hello <b> there", "Hello <b> there", []),
    ("hermes", " \n", " \n", []),
    (
        "hermes",
        'Sure.\n\n<tool_call>\n{"name": "f", "arguments": {"a": "你好", "b": [1, {"c": null}]}}\n'
        '</tool_call>\n<tool_call>{"arguments": {}, "name": "g"}</tool_call>\n',
        "Sure.",
        [("f", '{"a": "你好", "b": [1, {"c": null}]}'), ("g", "{}")],
    ),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": 1}\n</tool_call> x',
        " x",
        [("f", '{"a": 1}')],
    ),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": null}', "", [("f", "{}")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}', "", [("f", '{"a": 1}')]),
    ("hermes", "<tool_call>f(1)</tool_call> x", "<tool_call>f(1)</tool_call> x", []),
    ("hermes", "<tool_call></tool_call>", "<tool_call></tool_call>", []),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": [1]}',
        '<tool_call>{"name": "f", "arguments": [1]}',
        [],
    ),
    (
        "hermes",
        '<tool_call>{"name": 3, "arguments": {}}',
        '<tool_call>{"name": 3, "arguments": {}}',
        [],
    ),
    (
        "hermes",
        'no <tool_call>{bad</tool_call><tool_call>{"name": "g"}',
        "no <tool_call>{bad</tool_call>",
        [("g", "{}")],
    ),
    (
        "llama3",
        '{"name": "f", "parameters": {"q": "x"}}; {"name": "g", "parameters": {}}',
        "",
        [("f", '{"q": "x"}'), ("g", "{}")],
    ),
    ("llama3", '<|python_tag|>{"name": "other", "parameters": {}}', "", [("other", "{}")]),
    ("llama3", '{"name": "Ada", "age": 36} is JSON', '{"name": "Ada", "age": 36} is JSON', []),
    ("llama3", 'So {"name": "f", "parameters": {}}', 'So {"name": "f", "parameters": {}}', []),
    ("llama3", "<|python_tag|>f.call(1)", "<|python_tag|>f.call(1)", []),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g", "id": "a1"}]',
        "",
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    (
        "mistral",
        'ok[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]abc123def[ARGS]{"b": {}}',
        "ok",
        [("f", '{"a": 1}'), ("g", '{"b": {}}')],
    ),
    ("mistral", "[TOOL_CALLS] that is what it is", "[TOOL_CALLS] that is what it is", []),
    ("mistral", "[1, 2]", "[1, 2]", []),
]


@pytest.mark.parametrize(("form", "text", "content", "calls"), CASES)
@pytest.mark.parametrize("eager", [True, False])
def test_calls_are_told_from_content_however_the_text_is_cut_up(
    form: str, text: str, content: str, calls: Calls, eager: bool
) -> None:
    for size in (1, 2, 3, 5, 8, len(text)):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        assert run(form, pieces, eager=eager) == (content, calls, len(calls))


TORN = '<tool_call>{"name": "f", "arguments": {"a": oops}}</tool_call> x'


def test_a_call_torn_in_its_arguments_is_text_unless_it_was_shown_as_it_came() -> None:
    assert run("hermes", list(TORN), eager=False) == (TORN, [], 0)
    for size in (1, 2, 3, 7):
        pieces = [TORN[start : start + size] for start in range(0, len(TORN), size)]
        content, (call,), num_calls = run("hermes", pieces)
        assert (call, num_calls) == (("f", '{"a": '), 0)
        assert content == "oops}}</tool_call> x"


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize(
    ("text", "is_call"),
    [
        ('{"name": "f", "parameters": {"a": 1}}', True),
        ('{"name": "f", "confidence": 0.9}', False),
        ('{"name": "f", "parameters": {"a": 1}, "why": "x"}', False),
        ('{"name": "f"}', False),
        ('{"name": "h", "parameters": {"a": 1}}', False),
    ],
)
def test_beside_a_format_a_bare_object_is_a_call_only_if_it_is_nothing_else(
    text: str, is_call: bool, eager: bool
) -> None:
    for size in (1, 3, len(text)):
        parser = ToolParser(FORMATS["llama3"], ["f", "g"], eager=eager, has_format=True)
        parts = [
            part
            for start in range(0, len(text), size)
            for part in parser.push(text[start : start + size])
        ]
        parts += parser.flush()
        content = "".join(part for part in parts if isinstance(part, str))
        assert (parser.num_calls, content) == ((1, "") if is_call else (0, text))


def test_arguments_go_out_as_they_come() -> None:
    parser = ToolParser(FORMATS["hermes"], ["f"], eager=True)
    assert parser.push('<tool_call>{"name": "f", "argu') == []
    first = parser.push('ments": {"a"')
    assert [(p.name, p.arguments) for p in first if isinstance(p, ToolCallDelta)] == [
        ("f", ""),
        (None, '{"a"'),
    ]
    assert parser.push(": 12") == [ToolCallDelta(0, arguments=": 12")]
    assert parser.push("3}}") == [ToolCallDelta(0, arguments="3}")]
    assert parser.num_calls == 1


def test_a_call_cut_off_is_not_lost() -> None:
    cut = '<tool_call>{"name": "f", "arguments": {"a": 1'
    assert run("hermes", [cut], eager=False) == (cut, [], 0)
    assert run("hermes", [cut]) == ("", [("f", '{"a": 1')], 0)


def test_without_parallel_calls_the_first_is_the_last() -> None:
    text = '<tool_call>{"name": "f"}</tool_call><tool_call>{"name": "g"}</tool_call> and more'
    assert run("hermes", list(text), is_parallel=False) == ("", [("f", "{}")], 1)


PIECES = [
    *(
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "[ARGS]",
        "[",
        "]",
        ",",
        " ",
    ),
    *('{"name": "f"', '{"name": "x"', ', "arguments": ', "{}", '{"a": ', "1", "}", "so"),
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("eager", [True, False])
@given(
    text=st.lists(
        st.sampled_from(PIECES),
        max_size=12,
    ).map("".join),
    size=st.integers(1, 9),
)
def test_whatever_comes_calls_are_json_and_the_parser_ends(
    form: str, eager: bool, text: str, size: int
) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    content, calls, num_calls = run(form, pieces, eager=eager)
    assert num_calls <= len(calls)
    if not eager:
        assert num_calls == len(calls)
        assert all(isinstance(json.loads(arguments), dict) for _, arguments in calls)
        assert (content, calls, num_calls) == run(form, [text], eager=eager)
    if not calls:
        assert content == text


def test_the_template_says_which_format_a_model_writes() -> None:
    templates: dict[str, Any] = {
        "hermes": "{{ tools }}<tool_call>",
        "mistral": "{% if tools %}[TOOL_CALLS]{% endif %}",
        "mistral_args": "{% if tools %}[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}{% endif %}",
        "llama3": "{{ 'Environment: ipython' }}{{ custom_tools }}",
    }
    for name, template in templates.items():
        assert tool_format(template).name == name
    assert tool_format("{{ tools }}").name == "hermes"
    assert tool_format("[TOOL_CALLS]", "llama3").name == "llama3"
    assert takes_tools("{% if tools %}")
    assert not takes_tools("{{ toolset }}")


def test_ids_have_the_form_that_the_family_wants() -> None:
    assert FORMATS["mistral"].new_id().isalnum()
    assert len(FORMATS["mistral"].new_id()) == 9
    assert FORMATS["hermes"].new_id() != FORMATS["hermes"].new_id()


@pytest.mark.parametrize(
    ("eager", "cut", "calls"),
    [
        (True, '<tool_call>\n{ "na', []),
        (False, '<tool_call>\n{ "na', []),
        (True, '<tool_call>\n{"name": "f", "arguments": {"a"', [("f", '{"a"')]),
        (False, '<tool_call>\n{"name": "f", "arguments": {"a"', []),
        (False, '<tool_call>\n{"name": "f", "arguments": {"a": 1}', [("f", '{"a": 1}')]),
        (False, '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<to', [("f", "{}")]),
    ],
)
def test_markup_of_a_constrained_call_that_is_cut_is_no_content(
    eager: bool, cut: str, calls: Calls
) -> None:
    for size in (1, 7, len(cut)):
        parser = ToolParser(FORMATS["hermes"], ["f"], eager=eager, is_constrained=True)
        pieces = [cut[at : at + size] for at in range(0, len(cut), size)]
        parts = [part for piece in pieces for part in parser.push(piece)] + parser.flush()
        assert not any(isinstance(part, str) for part in parts)
        deltas = [part for part in parts if isinstance(part, ToolCallDelta)]
        assert "".join(f"{one.name or ''}{one.arguments}" for one in deltas) == "".join(
            name + arguments for name, arguments in calls
        )
