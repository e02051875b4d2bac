"""A conversation to the text that a chat model continues, checked as OpenAI checks it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llmos.errors import InvalidRequestError
from llmos.tasks.context import Served
from llmos.tasks.forgery import ChatText, without_forgeries
from llmos.tasks.tools import MISTRAL, MISTRAL_ARGS, ToolFormat, takes_tools, tool_format
from llmos.types import Message, Tool, ToolUse

if TYPE_CHECKING:
    from llmos.tasks.templates import Templates

CHAT_TASKS = frozenset({"chat", "generate"})
"""Any decoder may be asked; one without a template says so when it renders."""
_MISTRAL_ID = re.compile(r"[a-zA-Z0-9]{9}")
_MARK = "system message number {}."


class Renders(Protocol):
    """What of a task's context a prompt is made with."""

    @property
    def templates(self) -> Templates: ...


async def chat_prompt(
    context: Renders,
    served: Served,
    messages: Sequence[Message],
    tool_use: ToolUse,
    options: dict[str, Any],
    owner: str = "",
) -> ChatText:
    """Return the prompt of the next assistant turn.

    Special tokens are the template's alone: where a message, a tool or an option spells one, it
    stays text.

    Args:
        options: more variables of the template, such as ``enable_thinking``.
        owner: who asks, see `Templates.render`.

    Raises:
        InvalidRequestError: the model's template refuses the messages.
        UnsupportedTaskError: the model has no chat template.
    """
    manifest = served.manifest
    special = {f"{name}_token": token for name, token in manifest.special_tokens.items()}
    template = manifest.chat_template
    form = tool_format_of(served)
    tools = () if tool_use.choice == "none" else tool_use.tools
    given: dict[str, Any] = {
        **options,
        "messages": [_turn(message, form) for message in messages],
        "tools": [_function(tool) for tool in tools] or None,
    }
    given, forged = await without_forgeries(given, served.tokenizer, template or "")
    own = {name: token for name, token in special.items() if token is not None}
    variables = {**given, **own}
    text = await context.templates.render(template, variables, owner=owner)
    if any(turn["role"] == "system" for turn in given["messages"][1:]):
        await _check_placed(context, served, variables, owner)
    return ChatText(text, forged)


async def _check_placed(
    context: Renders, served: Served, variables: dict[str, Any], owner: str
) -> None:
    """Refuse system messages behind the first that the template leaves out, each found by a mark
    that it is given for content."""
    marked = [
        {**turn, "content": _MARK.format(index)} if index and turn["role"] == "system" else turn
        for index, turn in enumerate(variables["messages"])
    ]
    template = served.manifest.chat_template
    marked_variables = {**variables, "messages": marked}
    text = await context.templates.render(template, marked_variables, owner=owner)
    for index, turn in enumerate(marked):
        if turn is not variables["messages"][index] and turn["content"] not in text:
            raise InvalidRequestError(
                f"The chat template of {served.ref} has no place for a system message behind the "
                "first message: put it first.",
                param=f"messages.{index}.role",
            )


def tool_format_of(served: Served) -> ToolFormat:
    """Return how a model writes tool calls."""
    named = served.version.manifest.get("tool_format")
    return tool_format(served.manifest.chat_template or "", named)


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse conversations whose turns do not follow from each other.

    Raises:
        InvalidRequestError: there are none, a tool's answer belongs to no call before it, or a call
            has none.
    """
    if not messages:
        raise InvalidRequestError("messages is empty: give at least one.", param="messages")
    asker, open_ids = 0, set[str]()
    for index, message in enumerate(messages):
        if message.role == "tool":
            if message.tool_call_id not in open_ids:
                raise InvalidRequestError(
                    f"messages.{index} is a tool's answer to {_shown(message.tool_call_id)}, but "
                    "no assistant message right before it asks for that: give the message with "
                    "the tool call first.",
                    param=f"messages.{index}.tool_call_id" if index else "messages.0.role",
                )
            open_ids.discard(message.tool_call_id or "")
            continue
        _check_answered(asker, open_ids)
        asker, open_ids = index, {call.id for call in message.tool_calls}
    _check_answered(asker, open_ids)


def check_answerable(messages: Sequence[Message]) -> None:
    """Refuse conversations that leave an assistant nothing to answer.

    Raises:
        InvalidRequestError: only the system speaks, or the assistant spoke last.
    """
    last = len(messages) - 1
    if all(message.role == "system" for message in messages):
        raise InvalidRequestError(
            f"messages has nothing but system messages: add one of the user after messages.{last}.",
            param="messages",
        )
    if messages[last].role == "assistant":
        raise InvalidRequestError(
            f"messages.{last}, the last one, is the assistant's own: end with a message of the "
            "user, or with a tool's answer.",
            param=f"messages.{last}.role",
        )


def check_tools(served: Served, tool_use: ToolUse) -> None:
    """Refuse tools that cannot be called.

    Raises:
        InvalidRequestError: two have one name, the chosen one is not there, or the model's template
            would not tell the model of them.
    """
    names = [tool.name for tool in tool_use.tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidRequestError(
                f"Two tools are called {name!r}: give each a name of its own.",
                param=f"tools.{index}.function.name",
            )
    if tool_use.choice == "required" and not names:
        raise InvalidRequestError(
            "tool_choice is required, but there are no tools: give some.", param="tool_choice"
        )
    if tool_use.choice not in ("auto", "none", "required", *names):
        raise InvalidRequestError(
            f"tool_choice names {tool_use.choice!r}, which is not among the tools.",
            param="tool_choice",
        )
    template = served.manifest.chat_template
    if names and tool_use.choice == "auto" and template and not takes_tools(template):
        raise InvalidRequestError(
            f"The chat template of {served.ref} tells the model nothing of tools, so it would "
            "never call one on its own: set tool_choice to required or to one of them, or use "
            "another model.",
            param="tools",
        )


def _check_answered(asker: int, open_ids: set[str]) -> None:
    if open_ids:
        raise InvalidRequestError(
            f"messages.{asker} asks for tool calls, but no tool message right after it answers "
            f"{_shown(min(open_ids))}: add one with this tool_call_id.",
            param=f"messages.{asker}.tool_calls",
        )


def _shown(call_id: str | None) -> str:
    return repr((call_id or "")[:60])


def _turn(message: Message, form: ToolFormat) -> dict[str, Any]:
    """Return a turn as templates know it; keys that say nothing are left out."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.name:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = _template_id(message.tool_call_id, form)
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": _template_id(call.id, form),
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return turn


def _function(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _arguments(text: str) -> Any:
    """Return the object that templates expect, or the text where it is none."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _template_id(call_id: str, form: ToolFormat) -> str:
    """Return a call's id in the form that the model's template insists on."""
    if form not in (MISTRAL, MISTRAL_ARGS) or _MISTRAL_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]
