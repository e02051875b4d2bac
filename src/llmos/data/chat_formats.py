"""The forms that conversations and preferences come in: recognised, read into one, written as any.

ShareGPT (``conversations`` of ``from`` and ``value``), Alpaca (``instruction``, ``input``,
``output``, ``history``), OpenAI's (``messages``; ``input``, ``preferred_output`` and
``non_preferred_output``), and DPO pairs (``prompt``, ``chosen``, ``rejected``), the answers also in
ShareGPT's form or as whole conversations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmos.errors import DataError

Form = Literal["messages", "openai", "sharegpt", "alpaca", "dpo"]
"""``messages`` is what recipes take: ``messages``, of preferences ``chosen`` and ``rejected``, too;
``openai`` what OpenAI's fine-tuning takes."""
Row = Mapping[str, Any]
Turn = dict[str, Any]
"""A message in OpenAI's form."""
CHOSEN, REJECTED = "chosen", "rejected"
_ANSWERS = ("output", "completion", "response")
_ASKED = ("messages", "conversations", "system", "instruction", "input", "history", "prompt")
_PREFERRED = ("preferred_output", "non_preferred_output")
FIELDS = frozenset((*_ASKED, *_ANSWERS, *_PREFERRED, CHOSEN, REJECTED, "tools"))
"""That a form is made of; others are kept."""
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
    "function_call": "call",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
_FROM = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation, in OpenAI's messages; of a preference those before the two answers."""

    messages: list[Turn]
    chosen: str | None = None
    rejected: str | None = None
    tools: Any = None
    """What may be called, as it was given."""

    @property
    def is_preference(self) -> bool:
        return self.chosen is not None

    @property
    def calls_tools(self) -> bool:
        """Whether a turn calls a tool, or is what one said."""
        return any(turn["role"] == "tool" or turn.get("tool_calls") for turn in self.messages)


def read_talk(fields: Row) -> Talk:
    """Return the conversation or preference of a row.

    Raises:
        DataError: none is recognised, or a part of it has the wrong shape.
    """
    if "preferred_output" in fields:
        given = fields.get("input")
        turns = given.get("messages") if isinstance(given, Mapping) else None
        answers = (fields["preferred_output"], fields.get("non_preferred_output"))
        return _preference(_turns(turns), *answers)
    if CHOSEN in fields and REJECTED in fields:
        return _preference(_before(fields), fields[CHOSEN], fields[REJECTED], fields.get("tools"))
    turns = _before(fields)
    if not any(name in fields for name in ("messages", "conversations")):
        answer = next((fields[key] for key in _ANSWERS if key in fields), None)
        turns.append({"role": "assistant", "content": _text(answer, "the answer")})
    return Talk(turns, tools=fields.get("tools"))


def write_talk(talk: Talk, form: Form) -> dict[str, Any]:
    """Return the fields of a conversation or preference in a form.

    Raises:
        DataError: the form has no place for it.
    """
    if form == "dpo" and not talk.is_preference:
        raise DataError("it has no two answers, which a DPO pair is made of")
    tools = {} if talk.tools is None else {"tools": talk.tools}
    written = {
        "messages": _as_messages,
        "openai": _as_openai,
        "sharegpt": _as_sharegpt,
        "alpaca": _as_alpaca,
        "dpo": _as_dpo,
    }[form](talk)
    return written | tools


def _before(fields: Row) -> list[Turn]:
    """Return the turns that a row has, of Alpaca's and DPO's those before the answer."""
    system = fields.get("system")
    turns = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    for name in ("messages", "conversations"):
        if name in fields:
            return turns + _turns(fields[name])
    if "instruction" in fields:
        for pair in fields.get("history") or ():
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                raise DataError("'history' must be a list of pairs: a question and its answer")
            turns.append({"role": "user", "content": _text(pair[0], "'history'")})
            turns.append({"role": "assistant", "content": _text(pair[1], "'history'")})
        asked = (_text(fields["instruction"], "'instruction'"), fields.get("input") or "")
        joined = "\n".join(_text(part, "'input'") for part in asked if part)
        return [*turns, {"role": "user", "content": joined}]
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        return [*turns, {"role": "user", "content": prompt}]
    if prompt is not None:
        return turns + _turns(prompt)
    if isinstance(fields.get(CHOSEN), list):  # the conversation is in both answers
        return turns
    has = ", ".join(sorted(fields)) or "nothing"
    raise DataError(
        f"no conversation is recognised in {has}: it takes messages; conversations; instruction "
        "and output; prompt and completion; or prompt, chosen and rejected"
    )


def _preference(turns: list[Turn], chosen: Any, rejected: Any, tools: Any = None) -> Talk:
    answers, befores = [], []
    for answer in (chosen, rejected):
        if isinstance(answer, str):
            befores.append(turns)
            answers.append(answer)
            continue
        given = _turns(answer if isinstance(answer, list) else [answer])
        last = given.pop() if given else {}
        if last.get("role") != "assistant" or last.get("tool_calls"):
            raise DataError("an answer that was chosen or rejected is no text of the assistant")
        befores.append(given if len(given) > len(turns) else turns)
        answers.append(_text(last["content"], "an answer"))
    if befores[0] != befores[1]:
        raise DataError("the two answers come after different turns")
    if not befores[0] or befores[0][-1]["role"] == "assistant":
        raise DataError("the two answers come after no question")
    return Talk(befores[0], answers[0], answers[1], tools)


def _turns(given: Any) -> list[Turn]:
    if not isinstance(given, list) or not given:
        raise DataError("there is no list of turns")
    return [_turn(one) for one in given]


def _turn(given: Any) -> Turn:
    if not isinstance(given, Mapping):
        raise DataError(f"a turn must be a mapping, not {type(given).__name__}")
    name = given.get("from", given.get("role"))
    role = ROLES.get(str(name))
    if role is None:
        raise DataError(f"a turn is from {str(name)[:60]!r}: known are {', '.join(ROLES)}")
    if role == "call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(given.get("value"))}
    if "from" not in given:
        content = _content(given.get("content"), bool(given.get("tool_calls")))
        return {**given, "role": role, "content": content}
    return {"role": role, "content": _text(given.get("value"), "a turn")}


def _content(given: Any, may_be_empty: bool) -> str:
    """The text of a message, or of the parts that it is made of."""
    if given is None and may_be_empty:
        return ""
    if not isinstance(given, list):
        return _text(given, "a turn")
    if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in given):
        raise DataError("a turn has a part that is no text")
    return "".join(_text(part.get("text"), "a turn") for part in given)


def _calls(value: Any) -> list[Turn]:
    """Return the tool calls of a ShareGPT turn: one, or a list, as JSON text."""
    try:
        called = json.loads(value)
        calls = called if isinstance(called, list) else [called]
        return [
            {
                "type": "function",
                "function": {"name": one["name"], "arguments": _as_json(one["arguments"])},
            }
            for one in calls
        ]
    except (TypeError, ValueError, KeyError):
        raise DataError("a function_call is no JSON of a name and arguments") from None


def _as_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} must be text, not {type(value).__name__}")
    return value


def _answers(talk: Talk) -> dict[str, Any]:
    return {CHOSEN: talk.chosen, REJECTED: talk.rejected} if talk.is_preference else {}


def _as_messages(talk: Talk) -> dict[str, Any]:
    return {"messages": talk.messages, **_answers(talk)}


def _as_openai(talk: Talk) -> dict[str, Any]:
    if not talk.is_preference:
        return {"messages": talk.messages}
    return {
        "input": {"messages": talk.messages},
        "preferred_output": [{"role": "assistant", "content": talk.chosen}],
        "non_preferred_output": [{"role": "assistant", "content": talk.rejected}],
    }


def _as_sharegpt(talk: Talk) -> dict[str, Any]:
    turns = []
    for turn in talk.messages:
        if turn.get("content") or not turn.get("tool_calls"):
            turns.append({"from": _FROM[turn["role"]], "value": turn["content"]})
        if calls := [_plain_call(call) for call in turn.get("tool_calls") or ()]:
            value = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
            turns.append({"from": "function_call", "value": value})
    answers = {name: {"from": "gpt", "value": text} for name, text in _answers(talk).items()}
    return {"conversations": turns, **answers}


def _plain_call(call: Row) -> dict[str, Any]:
    named = call["function"]
    try:
        arguments = json.loads(named["arguments"])
    except ValueError:
        arguments = named["arguments"]
    return {"name": named["name"], "arguments": arguments}


def _as_alpaca(talk: Talk) -> dict[str, Any]:
    if talk.calls_tools:
        raise DataError("Alpaca's form has no place for tool calls")
    turns = list(talk.messages)
    system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else None
    if talk.is_preference:
        turns.append({"role": "assistant", "content": talk.chosen})
    roles = ["user", "assistant"] * (len(turns) // 2)
    if not roles or [turn["role"] for turn in turns] != roles:
        raise DataError("its turns do not alternate between a user and an assistant that answers")
    *history, (asked, answer) = zip(turns[::2], turns[1::2], strict=True)
    written: dict[str, Any] = {"instruction": asked["content"], "input": ""}
    written |= _answers(talk) or {"output": answer["content"]}
    written |= {} if system is None else {"system": system}
    pairs = [[question["content"], said["content"]] for question, said in history]
    return written | ({"history": pairs} if pairs else {})


def _as_dpo(talk: Talk) -> dict[str, Any]:
    if len(talk.messages) == 1 and talk.messages[0]["role"] == "user":
        return {"prompt": talk.messages[0]["content"], **_answers(talk)}
    return {"prompt": talk.messages, **_answers(talk)}
