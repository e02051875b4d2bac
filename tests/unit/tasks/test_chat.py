"""Conversations: what is refused, and templates with tools as transformers renders them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmos.errors import InvalidRequestError
from llmos.tasks.chat import chat_prompt, check_answerable, check_messages, check_tools
from llmos.types import Message, Tool, ToolCall, ToolUse

ServedBy = Callable[..., Any]

QWEN_LIKE = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- 'Functions:\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}
    {{- 'Call one as <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>' + message.content + '</tool_response><|im_end|>' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message.reasoning_content is defined and loop.last %}
            {{- '<think>' + message.reasoning_content + '</think>' }}
        {%- endif %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '<tool_call>{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments | tojson if call.arguments is mapping else call.arguments }}
            {{- '}</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role != 'system' or not tools %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
LLAMA_LIKE = """
{{- bos_token }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{ raise_exception('one call') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start|>assistant<|end|>{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- '}<|eot|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start|>ipython<|end|>' + message.content | tojson + '<|eot|>' }}
    {%- else %}
        {{- '<|start|>' + message.role + '<|end|>\\n\\n' }}
        {%- if tools and loop.first %}
            {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
        {%- endif %}
        {{- message.content | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\\n\\n' }}{% endif %}
"""
MISTRAL_LIKE = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools and loop.last %}{{- '[AVAILABLE_TOOLS]' + tools | tojson }}{%- endif %}
        {{- '[INST]' + message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}{{- raise_exception('not nine') }}{%- endif %}
            {%- set made = call.function %}
            {{- {'name': made.name, 'arguments': made.arguments, 'id': call.id} | tojson }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif message.role == 'tool' %}
        {%- set made = {'content': message.content, 'call_id': message.tool_call_id} %}
        {{- '[TOOL_RESULTS]' + made | tojson }}
    {%- else %}
        {{- message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""
WEATHER = Tool(
    "weather",
    "How it is outside, 今天",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
TALK = (
    Message("system", "Be brief."),
    Message("user", "Is it raining in Oslo?"),
    Message(
        "assistant", "", "Let me look.", (ToolCall("abcdefghi", "weather", '{"city": "Oslo 奥"}'),)
    ),
    Message("tool", '{"rain": true}', tool_call_id="abcdefghi", name="weather"),
    Message("assistant", "Yes.", "It says so."),
    Message("user", "And tomorrow?"),
)


def as_transformers_takes_it(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    turns = []
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning:
            turn["reasoning_content"] = message.reasoning
        if message.tool_call_id:
            turn |= {"tool_call_id": message.tool_call_id, "name": message.name}
        if message.tool_calls:
            turn["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.loads(call.arguments)},
                }
                for call in message.tool_calls
            ]
        turns.append(turn)
    return turns


@pytest.fixture
async def made(served_by: ServedBy) -> AsyncIterator[Callable[[str], Any]]:
    """A model of this template."""

    async def make(template: str, **manifest: Any) -> Any:
        special = {"bos": "<s>", "eos": "</s>"}
        context, served, _ = await served_by(
            "characters", "chat", chat_template=template, special_tokens=special, **manifest
        )
        return context, served

    yield make


@pytest.mark.parametrize("template", [QWEN_LIKE, LLAMA_LIKE, MISTRAL_LIKE])
@pytest.mark.parametrize("has_tools", [True, False])
@pytest.mark.parametrize("options", [{}, {"enable_thinking": False}])
async def test_tools_and_calls_are_rendered_as_transformers_does(
    made: Any, template: str, has_tools: bool, options: dict[str, Any]
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    context, served = await made(template)
    tool = {
        "name": WEATHER.name,
        "description": WEATHER.description,
        "parameters": WEATHER.parameters,
    }
    for end in range(1, len(TALK) + 1):
        ours = await chat_prompt(
            context, served, TALK[:end], ToolUse((WEATHER,) if has_tools else ()), options
        )
        (expected,), _ = render_jinja_template(
            conversations=[as_transformers_takes_it(TALK[:end])],
            tools=[{"type": "function", "function": tool}] if has_tools else None,
            chat_template=template,
            add_generation_prompt=True,
            bos_token="<s>",
            eos_token="</s>",
            **options,
        )
        assert ours.text == expected


async def test_tools_that_must_not_be_used_are_not_told_of(made: Any) -> None:
    context, served = await made(QWEN_LIKE)
    turns = (Message("user", "Hi"),)
    silent = await chat_prompt(context, served, turns, ToolUse((WEATHER,), "none"), {})
    assert silent == await chat_prompt(context, served, turns, ToolUse(), {})


async def test_ids_from_elsewhere_fit_a_template_that_insists_on_nine_characters(
    made: Any,
) -> None:
    context, served = await made(MISTRAL_LIKE)
    call = ToolCall("call_0123456789abcdef", "weather", "not even JSON \\ud800")
    talk = (
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "42", tool_call_id=call.id),
    )
    chat = await chat_prompt(context, served, talk, ToolUse(), {})
    given, answered = (chat.text.partition(key)[2][:9] for key in ('"id": "', '"call_id": "'))
    assert given == answered
    assert given.isalnum()


async def test_options_cannot_replace_what_is_llmos_own(made: Any) -> None:
    context, served = await made("{{ messages[0].content }}{{ bos_token }}{{ thinking }}")
    options = {"messages": [], "bos_token": "!", "thinking": 7}
    chat = await chat_prompt(context, served, (Message("user", "Hi"),), ToolUse(), options)
    assert chat.text == "Hi<s>7"


CALL = Message("assistant", "", tool_calls=(ToolCall("c1", "f", "{}"), ToolCall("c2", "g", "{}")))
ONE, TWO = (Message("tool", "x", tool_call_id=call_id) for call_id in ("c1", "c2"))
HI = Message("user", "hi")


def test_calls_answered_in_any_order_are_fine() -> None:
    check_messages([HI, CALL, TWO, ONE, HI, CALL, ONE, TWO])


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([ONE], "messages.0.role"),
        ([HI, ONE], "messages.1.tool_call_id"),
        ([HI, CALL, ONE, HI], "messages.1.tool_calls"),
        ([HI, CALL, ONE], "messages.1.tool_calls"),
        ([HI, CALL, ONE, ONE], "messages.3.tool_call_id"),
        ([HI, CALL, ONE, TWO, ONE], "messages.4.tool_call_id"),
    ],
)
def test_turns_that_do_not_follow_from_each_other_are_refused(
    messages: list[Message], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        check_messages(messages)
    assert raised.value.param == param


SYSTEM, SAID = Message("system", "be"), Message("assistant", "hm")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([SYSTEM], "messages"),
        ([SYSTEM, SYSTEM], "messages"),
        ([SAID], "messages.0.role"),
        ([SYSTEM, HI, SAID], "messages.2.role"),
    ],
)
def test_what_leaves_nothing_to_answer_is_refused(messages: list[Message], param: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        check_answerable(messages)
    assert raised.value.param == param


def test_two_users_in_a_row_and_a_system_message_last_can_be_answered() -> None:
    check_answerable([HI, HI])
    check_answerable([HI, SYSTEM])


async def test_a_system_message_that_the_template_would_drop_is_refused(made: Any) -> None:
    turns = (HI, Message("system", "hi"), HI)
    everyone = "{% for m in messages %}{{ m.content }}{% endfor %}"
    context, served = await made(everyone)
    assert (await chat_prompt(context, served, turns, ToolUse(), {})).text == "hihihi"
    skips = "{% if loop.first or m.role != 'system' %}{{ m.content }}{% endif %}"
    context, served = await made("{% for m in messages %}" + skips + "{% endfor %}")
    with pytest.raises(InvalidRequestError, match="put it first") as raised:
        await chat_prompt(context, served, turns, ToolUse(), {})
    assert raised.value.param == "messages.1.role"
    assert (await chat_prompt(context, served, (SYSTEM, HI), ToolUse(), {})).text == "behi"


@pytest.mark.parametrize(
    ("tool_use", "param"),
    [
        (ToolUse((WEATHER, WEATHER)), "tools.1.function.name"),
        (ToolUse((), "required"), "tool_choice"),
        (ToolUse((WEATHER,), "clock"), "tool_choice"),
        (ToolUse((WEATHER,), "auto"), "tools"),
    ],
)
async def test_tools_that_cannot_be_called_are_refused(
    made: Any, tool_use: ToolUse, param: str
) -> None:
    _, served = await made("{{ messages[0].content }}")
    with pytest.raises(InvalidRequestError) as raised:
        check_tools(served, tool_use)
    assert raised.value.param == param
    check_tools(served, ToolUse((WEATHER,), "weather"))
