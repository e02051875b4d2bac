"""What stands in the place of personal data: a mask, its type, a pseudonym, a surrogate.

Pseudonyms and surrogates are the same for the same value, by HMAC-SHA-256 with a secret key:
without it nobody finds out by trying whose they are.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from llmos.data.pii.spans import Span
from llmos.data.pii.surrogates import Chance, surrogate
from llmos.errors import PipelineError
from llmos.types import PersonalType

Action = Literal["replace", "mask", "pseudonym", "surrogate", "drop", "keep"]
KEYED: frozenset[Action] = frozenset({"pseudonym", "surrogate"})
"""Actions that need the key."""
KEY_FILE = "LLMOS_PSEUDONYM_KEY_FILE"
"""Environment variable: the path of the file with the key."""
KEY_BYTES = 32
PSEUDONYM_HEX = 12


def read_key() -> bytes:
    """Return the secret key that the environment names.

    Raises:
        PipelineError: there is none, it is too short, or others may read it.
    """
    make = f"umask 077; openssl rand -hex {KEY_BYTES} > FILE"
    given = os.environ.get(KEY_FILE)
    if not given:
        raise PipelineError(
            f"pseudonyms and surrogates need a secret key: make one (`{make}`), and set "
            f"{KEY_FILE} to "
            "the file's path in the server's environment"
        )
    try:
        is_open = bool(Path(given).stat().st_mode & 0o077)
        key = Path(given).read_bytes().strip()
    except OSError as error:
        said = f"the file that {KEY_FILE} names cannot be read: {error.strerror}"
        raise PipelineError(said) from None
    if is_open:
        raise PipelineError(f"others may read the key that {KEY_FILE} names: chmod 600 it")
    if len(key) < KEY_BYTES:
        raise PipelineError(
            f"the key that {KEY_FILE} names has {len(key)} bytes, and needs {KEY_BYTES}: `{make}`"
        )
    return key


class Replacer:
    """Puts something in the place of spans.

    Args:
        key: for pseudonyms and surrogates; none where neither is wanted.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key

    def replaced(self, text: str, spans: Sequence[tuple[Span, Action]]) -> str:
        """Return a text with what becomes of its spans, which are in order."""
        parts: list[str] = []
        end = 0
        for span, action in spans:
            value = text[span.start : span.end]
            parts += [text[end : span.start], self._instead(value, span, action)]
            end = span.end
        return "".join([*parts, text[end:]])

    def _instead(self, value: str, span: Span, action: Action) -> str:
        if action == "keep":
            return value
        if action == "mask":
            return re.sub(r"\S", "*", value)
        if action == "pseudonym":
            return f"[{span.type}_{self._digest(span.type, value).hex()[:PSEUDONYM_HEX]}]"
        if action == "surrogate":
            return surrogate(span.type, value, Chance(self._digest(span.type, value)))
        return f"[{span.type}]"

    def _digest(self, kind: PersonalType, value: str) -> bytes:
        assert self._key is not None
        said = f"{kind}\x1f{canonical(kind, value)}".encode()
        return hmac.new(self._key, said, hashlib.sha256).digest()


def canonical(kind: PersonalType, value: str) -> str:
    """Return a value as it counts as the same: however it is spaced, full-width or capitalised;
    of a secret, as it is."""
    if kind == "SECRET":
        return value
    value = unicodedata.normalize("NFKC", value).lower()
    if kind in {"NAME", "ADDRESS", "URL", "EMAIL"}:
        return " ".join(value.split())
    return "".join(char for char in value if char.isalnum())
