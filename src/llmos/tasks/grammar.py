"""What an output must match: checked before it reaches an engine.

`Grammars` is the server's side of the check, ``python -m llmos.tasks.grammar FD`` the helper, which
compiles for a stand-in tokenizer. What takes too long there, or breaks it, is refused and never
meets an engine.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import OrderedDict
from typing import Any

import msgspec

from llmos.errors import GrammarError
from llmos.tasks.sandbox import Sandbox, SandboxBrokenError, SandboxTimeoutError, serve
from llmos.types import Grammar

CHECK_TIMEOUT_S = 1.0
MAX_SOURCE_BYTES = 256 * 2**10
MAX_REGEX_CHARS = 16 * 2**10
MAX_CHOICES = 4096
MAX_NESTING = 64
HELPER_MEMORY_BYTES = 2**30
_HELPER_STACK_BYTES = 2**20
"""Less than any engine's: nesting that an engine's stack would not bear breaks the helper first."""
_MAX_REMEMBERED = 1024


_SUBJECTS = {
    "json_object": "The JSON object",
    "json_schema": "The JSON schema",
    "regex": "The regular expression",
    "choice": "The list of choices",
    "lark": "The grammar",
}
"""What errors call a grammar of each kind."""


class Check(msgspec.Struct, frozen=True, tag="check"):
    grammar: Grammar


class Checked(msgspec.Struct, frozen=True, tag="checked"):
    reason: str | None
    """None: it compiles."""


class Grammars:
    """Checks grammars, one at a time, in a helper process; remembers what it found."""

    def __init__(self, timeout_s: float = CHECK_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._sandbox = Sandbox("llmos.tasks.grammar", Checked)
        self._found: OrderedDict[bytes, str | None] = OrderedDict()

    async def close(self) -> None:
        """End the helper."""
        await self._sandbox.close()

    async def check(self, grammar: Grammar, param: str, owner: str = "") -> None:
        """Refuse a grammar that no engine should be asked to follow.

        Args:
            param: the field of the request that it came from, named in errors.
            owner: who asks; each has its turn at the helper.

        Raises:
            GrammarError: it is too large, not valid, or asks for what cannot be enforced.
            OverloadedError: the grammars of others took too long.
        """
        try:
            check_size(grammar, "The schema of the tools" if param == "tools" else None)
            reason = await self._compiled(grammar, owner)
        except GrammarError as error:
            raise GrammarError(error.message, param=param) from None
        if reason is not None:
            raise GrammarError(reason, param=param)

    async def _compiled(self, grammar: Grammar, owner: str) -> str | None:
        key = hashlib.sha256(msgspec.msgpack.encode(grammar)).digest()
        if key not in self._found:
            try:
                answer = await self._sandbox.ask(
                    Check(grammar), self._timeout_s, owner=owner, key=key
                )
            except SandboxTimeoutError:  # a busy machine may have been the cause: not kept for good
                return f"The grammar takes more than {self._timeout_s:g} s to compile: simplify it."
            except SandboxBrokenError:
                answer = Checked("The grammar is too deeply nested or too large: simplify it.")
            self._found[key] = answer.reason
            while len(self._found) > _MAX_REMEMBERED:
                self._found.popitem(last=False)
        self._found.move_to_end(key)
        return self._found[key]


def check_size(grammar: Grammar, subject: str | None = None) -> None:
    """Refuse a grammar for its size or shape, without compiling it; the error begins with its
    ``subject``. Raises GrammarError."""
    subject = subject or _SUBJECTS[grammar.kind]
    size = len(grammar.source.encode("utf-8", "surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        raise GrammarError(f"{subject} has {size} bytes, over the limit of {MAX_SOURCE_BYTES}.")
    if any("\ud800" <= char <= "\udfff" for char in grammar.source):
        raise GrammarError(f"{subject} has half of a surrogate pair, which is no character.")
    if grammar.kind == "regex" and len(grammar.source) > MAX_REGEX_CHARS:
        raise GrammarError(
            f"The regular expression has {len(grammar.source)} characters, over the limit of "
            f"{MAX_REGEX_CHARS}."
        )
    if grammar.kind == "choice":
        _check_choices(_parsed(grammar))
    if grammar.kind == "json_schema":
        check_schema(_parsed(grammar))


def _parsed(grammar: Grammar) -> Any:
    try:
        return json.loads(grammar.source)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"It is not valid JSON: {error}") from error


def _check_choices(choices: Any) -> None:
    is_list = isinstance(choices, list) and all(isinstance(one, str) for one in choices)
    if not is_list or not choices:
        raise GrammarError("The choices must be a list of at least one string.")
    if len(choices) > MAX_CHOICES:
        raise GrammarError(f"There are {len(choices)} choices, over the limit of {MAX_CHOICES}.")


def check_schema(schema: Any) -> None:
    """Refuse what is no schema, or nested too deeply. Raises GrammarError."""
    if not isinstance(schema, dict):
        raise GrammarError("The JSON schema must be an object.")
    level: list[Any] = [schema]
    for _ in range(MAX_NESTING):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise GrammarError(f"The JSON schema is nested more than {MAX_NESTING} levels deep.")


# -- the helper ------------------------------------------------------------------------------------


def main(fd: int) -> None:
    """Serve checks on the socket ``fd`` until it closes."""
    from llmos.tasks.grammar_check import refusal

    serve(
        fd,
        Check,
        lambda question: Checked(refusal(question.grammar)),
        HELPER_MEMORY_BYTES,
        stack_bytes=_HELPER_STACK_BYTES,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
