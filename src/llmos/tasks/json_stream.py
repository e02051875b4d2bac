"""One JSON object, followed character by character while a model writes it.

`JsonObject` checks the text as it comes and says where each member's value stands in it. Raw line
breaks inside strings, which models write and JSON forbids, are escaped. It knows nothing of tools.
"""

from __future__ import annotations

import json
import re

_SPACE = frozenset(" \t\n\r")
_CLOSERS = {"}": "{", "]": "["}
_SCALAR_CHARS = frozenset("+-.0123456789eEtrufalsn")
_SCALAR = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|true|false|null")


class JsonObject:
    """A JSON object in the making.

    ``text`` is what was taken so far; it is whole once ``is_complete``, and can never become so
    once ``is_broken``.
    """

    def __init__(self) -> None:
        self.text = ""
        self.is_complete = False
        self.is_broken = False
        self._state = "object"
        self._open: list[str] = []
        self._is_key = False
        self._key = ""
        self._began_at = 0
        self._spans: dict[str, tuple[int, int | None]] = {}
        self._taken: list[str] = []
        self._num_taken = 0

    def push(self, text: str) -> int:
        """Take the characters that belong to the object; return how many those are."""
        at = 0
        while at < len(text) and not (self.is_complete or self.is_broken):
            if self._push_char(text[at]):
                at += 1
            else:
                self.is_broken = True
        self.text += "".join(self._taken)
        self._taken.clear()
        return at

    def value(self, key: str) -> str | None:
        """The JSON text of a member's value as far as it came; None before it began."""
        span = self._spans.get(key)
        return None if span is None else self.text[span[0] : span[1]]

    @property
    def keys(self) -> frozenset[str]:
        """The members that came, or begin to."""
        return frozenset(self._spans)

    def has_whole(self, key: str) -> bool:
        """Whether a member's value came to its end."""
        return self._spans.get(key, (0, None))[1] is not None

    def string(self, key: str) -> str | None:
        """A member that is a string, once it is whole."""
        text = self.value(key) if self.has_whole(key) else None
        return json.loads(text) if text is not None and text.startswith('"') else None

    def _push_char(self, char: str) -> bool:
        match self._state:
            case "string":
                return self._in_string(char)
            case "escape":
                self._state = "hex4" if char == "u" else "string"
                return char in '"\\/bfnrtu' and self._take(char)
            case "hex4" | "hex3" | "hex2" | "hex1":
                digits = int(self._state[-1]) - 1
                self._state = f"hex{digits}" if digits else "string"
                return char in "0123456789abcdefABCDEF" and self._take(char)
            case "scalar" if char in _SCALAR_CHARS:
                return self._take(char)
            case "scalar":
                written = (self.text + "".join(self._taken))[self._began_at :]
                if not _SCALAR.fullmatch(written):
                    return False
                self._end_value()
        return self._outside(char)

    def _in_string(self, char: str) -> bool:
        if char == "\\":
            self._state = "escape"
        elif char < " ":
            return self._take(json.dumps(char)[1:-1])
        elif char == '"':
            self._take(char)
            self._end_string()
            return True
        return self._take(char)

    def _outside(self, char: str) -> bool:
        """Take a character that is in no string, number or literal."""
        if char in _SPACE:
            return self._take(char)
        state = self._state
        if char == '"' and state in ("key", "key_or_end"):
            self._begin_string(is_key=True)
        elif char == ":" and state == "colon":
            self._state = "value"
        elif char == "," and state == "after":
            self._state = "key" if self._open[-1] == "{" else "value"
        elif char in _CLOSERS and self._may_close(char):
            self._open.pop()
            self._take(char)
            self._end_value()
            return True
        elif state in ("value", "value_or_end", "object"):
            return self._begin_value(char)
        else:
            return False
        return self._take(char)

    def _may_close(self, char: str) -> bool:
        empty = "key_or_end" if char == "}" else "value_or_end"
        is_after = self._state in ("after", empty)
        return is_after and bool(self._open) and self._open[-1] == _CLOSERS[char]

    def _begin_value(self, char: str) -> bool:
        if self._state == "object" and char != "{":
            return False
        if len(self._open) == 1:
            self._spans.setdefault(self._key, (self._num_taken, None))
        if char in "{[":
            self._open.append(char)
            self._state = "key_or_end" if char == "{" else "value_or_end"
        elif char == '"':
            self._begin_string(is_key=False)
        elif char in "-0123456789tfn":
            self._began_at = self._num_taken
            self._state = "scalar"
        else:
            return False
        return self._take(char)

    def _begin_string(self, *, is_key: bool) -> None:
        self._is_key = is_key
        self._began_at = self._num_taken
        self._state = "string"

    def _end_string(self) -> None:
        if not self._is_key:
            self._end_value()
            return
        self._state = "colon"
        if len(self._open) == 1:
            written = self.text + "".join(self._taken)
            self._key = json.loads(written[self._began_at :])

    def _end_value(self) -> None:
        """Note that a value came to its end with the last character taken."""
        self._state = "after"
        if not self._open:
            self.is_complete = True
        elif len(self._open) == 1:
            start, end = self._spans[self._key]
            self._spans[self._key] = (start, self._num_taken if end is None else end)

    def _take(self, taken: str) -> bool:
        self._taken.append(taken)
        self._num_taken += len(taken)
        return True
