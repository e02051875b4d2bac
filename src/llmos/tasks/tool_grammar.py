"""The grammar of tool calls: what a model may write where it must call a tool, or else an answer.

Calls are written as `tools` reads them, each family of models in its own way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmos.engines.grammars import json_rule
from llmos.errors import GrammarError, InvalidRequestError
from llmos.tasks.grammar import check_schema
from llmos.types import Grammar, Tool, ToolUse


def tools_grammar(
    tool_use: ToolUse,
    form: str,
    token_ids: Mapping[str, int] | None = None,
    answer: Grammar | None = None,
) -> Grammar:
    """Return the grammar of an answer that must be a call of one of the tools, or several.

    Args:
        tool_use: its ``choice`` is required or a tool's name, or auto, where ``answer`` may be
            instead of calls; ``parallel`` allows several.
        form: how the model writes calls. hermes: ``<tool_call>`` objects ``</tool_call>``, each on
            its own line; llama3: bare objects, between them ``; ``; mistral: ``[TOOL_CALLS]`` and
            a list; mistral_args: ``[TOOL_CALLS]`` name ``[ARGS]`` arguments, for each call.
        token_ids: of the markers that are single tokens of the model.
        answer: a JSON format.

    Raises:
        GrammarError: a tool's parameters cannot be those of a call (``param`` is ``tools``).
        InvalidRequestError: no tool is chosen, or the answer has a format that is no JSON.
    """
    tools = [one for one in tool_use.tools if tool_use.choice in ("required", "auto", one.name)]
    if not tools:
        raise InvalidRequestError(
            f"tool_choice names {tool_use.choice!r}, which is not among the tools.",
            param="tool_choice",
        )
    rules = _calls(tools, tool_use, form, token_ids or {})
    other = None if answer is None else _json_rule(answer)
    if other is None or tool_use.choice != "auto":
        return Grammar("lark", f"start: calls\n{rules}")
    return Grammar("lark", f"start: calls | answer\n{rules}answer: {other}\n")


def _json_rule(answer: Grammar) -> str:
    match answer.kind:
        case "json_object":
            return json_rule({"type": "object"})
        case "json_schema":
            return json_rule(json.loads(answer.source))
    raise InvalidRequestError(
        "An answer that must match a grammar, a regex or a choice cannot be a tool call: set "
        "tool_choice to none, leave one of the two out, or ask for JSON.",
        param="tool_choice",
    )


def _calls(tools: list[Tool], tool_use: ToolUse, form: str, token_ids: Mapping[str, int]) -> str:
    """Return the Lark rules of ``calls``."""
    if form == "mistral_args":
        return _headed_calls(tools, tool_use, token_ids)
    call = _call_schema(tools, "parameters" if form == "llama3" else "arguments")
    if form == "hermes":
        begin, end = _marker("<tool_call>", token_ids), _marker("</tool_call>", token_ids)
        calls, one = _repeated('"\\n"', tool_use), f'{begin} "\\n" object "\\n" {end}'
    elif form == "llama3":
        calls, one = _repeated('"; "', tool_use), "object"
    else:
        calls, one = f'{_marker("[TOOL_CALLS]", token_ids)} " "? call', "object"
        call = _list_schema(call, tool_use.parallel)
    return f"calls: {calls}\ncall: {one}\nobject: {json_rule(call)}\n"


def _headed_calls(tools: list[Tool], tool_use: ToolUse, token_ids: Mapping[str, int]) -> str:
    """Return the rules of calls whose names stand before the arguments. Models that give each call
    an id have a token for that."""
    begin, before_object = (_marker(one, token_ids) for one in ("[TOOL_CALLS]", "[ARGS]"))
    has_ids = "[CALL_ID]" in token_ids
    call_id = f"({_marker('[CALL_ID]', token_ids)} /[a-zA-Z0-9]{{9}}/)?" if has_ids else ""
    rules = [f"calls: {_repeated('', tool_use)}"]
    names = " | ".join(f"tool{number}" for number in range(len(tools)))
    rules.append(f"call: {begin} ({names})")
    for number, tool in enumerate(tools):
        schema = {
            "$ref": f"#/$defs/tool{number}",
            "$defs": {f"tool{number}": _parameters(tool, number)},
        }
        name = json.dumps(tool.name, ensure_ascii=False)
        rules.append(f"tool{number}: {name} {call_id} {before_object} object{number}")
        rules.append(f"object{number}: {json_rule(schema)}")
    return "\n".join(rules) + "\n"


def _repeated(separator: str, tool_use: ToolUse) -> str:
    return f"call ({separator} call)*" if tool_use.parallel else "call"


def _marker(text: str, token_ids: Mapping[str, int]) -> str:
    return f"<[{token_ids[text]}]>" if text in token_ids else json.dumps(text)


def _list_schema(call: dict[str, Any], is_parallel: bool) -> dict[str, Any]:
    definitions = call.pop("$defs")
    most = {} if is_parallel else {"maxItems": 1}
    return {"type": "array", "items": call, "minItems": 1, **most, "$defs": definitions}


def _call_schema(tools: list[Tool], arguments_key: str) -> dict[str, Any]:
    """Return the schema of a call of any of the tools; the parameters lie under ``$defs``."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                arguments_key: {"$ref": f"#/$defs/tool{number}"},
            },
            "required": ["name", arguments_key],
            "additionalProperties": False,
        }
        for number, tool in enumerate(tools)
    ]
    definitions = {f"tool{number}": _parameters(tool, number) for number, tool in enumerate(tools)}
    return {"anyOf": calls, "$defs": definitions}


def _parameters(tool: Tool, number: int) -> dict[str, Any]:
    """Return a tool's parameters as a definition of a larger schema: always an object, its
    references within itself led to where it now lies."""
    if not tool.parameters:  # it takes none
        return {"type": "object", "properties": {}, "additionalProperties": False}
    try:
        check_schema(tool.parameters)
    except GrammarError as error:
        raise GrammarError(f"Tool {tool.name!r}: {error.message}", param="tools") from None
    kind = tool.parameters.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise GrammarError(
            f"The parameters of tool {tool.name!r} must be of type object, not {kind!r}.",
            param="tools",
        )
    kept = {k: v for k, v in tool.parameters.items() if k not in ("$id", "$schema", "x-guidance")}
    moved: dict[str, Any] = _moved(kept, f"#/$defs/tool{number}")
    return {**moved, "type": "object"}


def _moved(value: Any, to: str) -> Any:
    """Return a schema with its references ``#`` and ``#/…`` made relative to ``to``."""
    if isinstance(value, list):
        return [_moved(one, to) for one in value]
    if not isinstance(value, dict):
        return value
    moved = {key: _moved(one, to) for key, one in value.items()}
    target = value.get("$ref")
    if isinstance(target, str) and (target == "#" or target.startswith("#/")):
        moved["$ref"] = to + target[1:]
    return moved
