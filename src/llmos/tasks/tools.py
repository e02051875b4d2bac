"""Tool calls in what a model writes: the formats models were trained on, and their parser.

A format is recognised from the model's chat template, or named by its manifest (``tool_format``).
`ToolParser` splits an assistant's text into content and calls as it comes; text that turns out to
be no call after all is given back as content, so that nothing is lost.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import lru_cache

from llmos.tasks.json_stream import JsonObject
from llmos.tasks.stops import partial_chars
from llmos.types import ToolCallDelta

Part = str | ToolCallDelta

_SPACE = " \t\n\r"
_ARGUMENT_KEYS = ("arguments", "parameters")
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_HEADER = re.compile(rf"({_NAME.pattern})(?:\[CALL_ID\][\w-]{{1,64}})?(?:\[ARGS\])?\s*")
_HEADER_PART = re.compile(r"[\w.\[\]-]{1,160}\s*")


def _openai_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _nine_chars() -> str:
    """Return an id as Mistral's templates insist on."""
    return secrets.token_hex(5)[:9]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a family of models writes calls: JSON objects with a name, and arguments or parameters.

    Markers may stand among white space: ``begins`` announces calls, ``around`` may be before and
    between them, and after one of ``ends`` comes other text.
    """

    name: str
    begins: str
    ends: tuple[str, ...] = ()
    around: tuple[str, ...] = ()
    is_bare: bool = False
    """An answer may be a call without announcement, if it names a tool that there is."""
    has_headers: bool = False
    """A name may stand before an object, which is the arguments alone then."""
    new_id: Callable[[], str] = _openai_id

    @property
    def markers(self) -> frozenset[str]:
        """Text that may be special tokens, which the parser needs to see."""
        headers = ("[ARGS]", "[CALL_ID]") if self.has_headers else ()
        return frozenset({self.begins, *self.ends, *self.around, *headers})


HERMES = ToolFormat("hermes", "<tool_call>", ends=("</tool_call>",))
LLAMA3 = ToolFormat(
    "llama3", "<|python_tag|>", ends=("<|eom_id|>",), around=(";", ","), is_bare=True
)
MISTRAL = ToolFormat(
    "mistral",
    "[TOOL_CALLS]",
    ends=("]",),
    around=("[", ","),
    has_headers=True,
    new_id=_nine_chars,
)
MISTRAL_ARGS = replace(MISTRAL, name="mistral_args")
"""Newer models of the family: each call is announced, its name stands before its arguments."""
FORMATS: dict[str, ToolFormat] = {one.name: one for one in (HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS)}


@lru_cache(maxsize=64)
def tool_format(template: str, name: str | None = None) -> ToolFormat:
    """Return the format of a model by its chat template, Hermes's where that does not tell.

    Args:
        name: what the model's manifest says it is; an unknown name counts as none.
    """
    if name is not None and name in FORMATS:
        return FORMATS[name]
    if MISTRAL.begins in template:
        return MISTRAL_ARGS if "[ARGS]" in template else MISTRAL
    if LLAMA3.begins in template or "Environment: ipython" in template:
        return LLAMA3
    return HERMES


@lru_cache(maxsize=64)
def takes_tools(template: str) -> bool:
    """Whether a chat template tells the model of the tools there are."""
    return re.search(r"\btools\b", template) is not None


class _Call:
    """One call under way: its JSON, and how much of its arguments was shown."""

    def __init__(self, name: str) -> None:
        self.json = JsonObject()
        self.index: int | None = None
        """Its number among the calls, once it was shown."""
        self.num_shown_chars = 0
        self._name = name

    @property
    def name(self) -> str:
        return self._name or self.json.string("name") or ""

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are all there, be it that the object around them is not."""
        if not self.json.is_complete and not any(map(self.json.has_whole, _ARGUMENT_KEYS)):
            return False
        return self.arguments() is not None

    @property
    def is_nothing_else(self) -> bool:
        """Whether the object is whole and has what a call has, no less and no more."""
        arguments = self.json.keys - {"name"}
        return self.json.is_complete and len(arguments) == 1 and arguments <= set(_ARGUMENT_KEYS)

    def arguments(self) -> str | None:
        """The JSON object of the arguments as far as it came; None while there is none.

        A model may also leave it out, or write it into a string.
        """
        if self._name:
            return self.json.text
        for key in _ARGUMENT_KEYS:
            value = self.json.value(key)
            if value is not None and not value.startswith("{"):
                return _unquoted(value) if self.json.has_whole(key) else None
            if value is not None:
                return value
        return "{}" if self.json.is_complete else None


class ToolParser:
    """Splits an assistant's text into content and tool calls.

    Args:
        form: the model's format.
        names: the tools there are.
        eager: whether arguments go out as they come; else a call goes out once it is whole, and
            one that never becomes so is given back as text.
        is_parallel: whether there may be several calls; else the text ends with the first.
        is_constrained: the text can be nothing but calls: what is left of one that was cut off is
            no content.
        has_format: an answer is an object too: one that is not announced is a call only if it has
            a name and arguments, and nothing else.
    """

    def __init__(
        self,
        form: ToolFormat,
        names: Collection[str],
        *,
        eager: bool,
        is_parallel: bool = True,
        is_constrained: bool = False,
        has_format: bool = False,
    ) -> None:
        self.num_calls = 0
        """Calls that are whole."""
        self._form = form
        self._names = frozenset(names)
        self._eager = eager
        self._is_parallel = is_parallel
        self._is_constrained = is_constrained
        self._has_format = has_format
        around = {form.begins, *form.around, *form.ends}
        self._markers = sorted(around, key=len, reverse=True)
        self._is_announced = False
        self._step = self._gap if form.is_bare else self._text
        self._pending = ""  # not yet understood
        self._raw = ""  # taken for part of a call, which may still turn out to be none
        self._call: _Call | None = None
        self._num_shown = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing more is wanted: there was the one call."""
        return self.num_calls > 0 and not self._is_parallel

    def push(self, text: str) -> list[Part]:
        """Return what may go out now."""
        self._pending += text
        parts: list[Part] = []
        while not self.is_done and self._step(parts):
            pass
        return self._wanted(parts)

    def flush(self) -> list[Part]:
        """Return what was held back, once no more text comes."""
        parts: list[Part] = []
        call, rest = self._call, self._raw + self._pending
        if self.is_done:
            return parts
        if call is not None and call.is_whole and self._is_known(call):
            self._finish(call, parts)
        elif (call is None or call.index is None) and (rest.strip() or not self.num_calls):
            parts += [rest] if rest else []
        self._raw = self._pending = ""
        return self._wanted(parts)

    def _wanted(self, parts: list[Part]) -> list[Part]:
        return [one for one in parts if not (self._is_constrained and isinstance(one, str))]

    # A step takes from what is pending and says whether the next may find more to do there.

    def _text(self, parts: list[Part]) -> bool:
        """Pass text on until calls are announced; white space before them is dropped."""
        text, announced, after = self._pending.partition(self._form.begins)
        end = len(text) if announced else len(text) - partial_chars(text, self._form.begins)
        kept = text[:end].rstrip(_SPACE)
        parts += [kept] if kept else []
        if not announced:
            self._pending = text[len(kept) :]
            return False
        self._raw, self._pending = text[len(kept) :] + announced, after
        self._is_announced = True
        self._step = self._gap
        return True

    def _gap(self, parts: list[Part]) -> bool:
        """Take what may stand around objects; where anything else does, there is no call."""
        text = self._pending.lstrip(_SPACE)
        num_spaces = len(self._pending) - len(text)
        if any(len(one) > len(text) and one.startswith(text) for one in self._markers):
            return False
        if text.startswith("{"):
            self._begin("", num_spaces)
            return True
        marker = next((one for one in self._markers if text.startswith(one)), None)
        if marker is None:
            return self._header(text, num_spaces, parts)
        self._take(num_spaces + len(marker))
        if marker == self._form.begins:
            self._is_announced = True
        if marker not in self._form.ends:
            return True
        if self.num_calls:
            self._raw = ""
        return self._give_back(parts)

    def _header(self, text: str, num_spaces: int, parts: list[Part]) -> bool:
        """Take a name that stands before the arguments."""
        header, brace, _ = text.partition("{")
        if not self._form.has_headers or not self._is_announced:
            return self._give_back(parts)
        if brace and (named := _HEADER.fullmatch(header)):
            self._begin(named[1], num_spaces + len(header))
            return True
        may_follow = not brace and _HEADER_PART.fullmatch(header) is not None
        return False if may_follow else self._give_back(parts)

    def _object(self, parts: list[Part]) -> bool:
        """Follow an object to its end."""
        call = self._call
        assert call is not None
        self._take(call.json.push(self._pending))
        if not (call.json.is_complete or call.json.is_broken):
            if self._eager and self._is_known(call):
                self._show(call, parts)
            return False
        if call.is_whole and self._is_known(call):
            self._finish(call, parts)
            return True
        if call.index is not None:
            self._show(call, parts)
            self._raw = ""  # all of it was shown as it came; what follows is text
        return self._give_back(parts)

    def _begin(self, name: str, num_chars: int) -> None:
        self._take(num_chars)
        self._call = _Call(name)
        self._step = self._object

    def _is_known(self, call: _Call) -> bool:
        if self._is_announced:
            return _NAME.fullmatch(call.name) is not None
        return call.name in self._names and (not self._has_format or call.is_nothing_else)

    def _finish(self, call: _Call, parts: list[Part]) -> None:
        self._show(call, parts)
        self.num_calls += 1
        self._call, self._raw = None, ""
        self._step = self._gap

    def _show(self, call: _Call, parts: list[Part]) -> None:
        """Pass on what is new of a call: at first its name, then more of its arguments."""
        arguments = call.arguments()
        if arguments is None:
            return
        if call.index is None:
            call.index, self._num_shown = self._num_shown, self._num_shown + 1
            parts.append(ToolCallDelta(call.index, self._form.new_id(), call.name))
        if piece := arguments[call.num_shown_chars :]:
            call.num_shown_chars = len(arguments)
            parts.append(ToolCallDelta(call.index, arguments=piece))

    def _take(self, num_chars: int) -> None:
        self._raw += self._pending[:num_chars]
        self._pending = self._pending[num_chars:]

    def _give_back(self, parts: list[Part]) -> bool:
        """Go on with what was no call as text."""
        parts += [self._raw] if self._raw else []
        self._raw, self._call = "", None
        self._is_announced = False
        self._step = self._text
        return True


def _unquoted(value: str) -> str | None:
    """Return the object that a JSON string holds, ``{}`` for null, None for anything else."""
    try:
        inner = json.loads(value)
        if inner is None:
            return "{}"
        return inner if isinstance(inner, str) and isinstance(json.loads(inner), dict) else None
    except (ValueError, RecursionError):
        return None
