"""Names of artifacts, parsed once into a value: ``[namespace/]name[:version][@alias]``.

A parsed name holds only letters, digits, ``.``, ``_`` and ``-``, and never ``..``, so it is safe in
paths, URLs and logs. Looking names up is ``artifacts``' work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmos.errors import InvalidNameError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_RULE = (
    "use letters, digits, '.', '_' and '-' (128 at most, a letter or digit first, no '..'), "
    "as in my-model, team/my-model, my-model:3 or my-model@production"
)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A reference to an artifact; without version and alias it means ``@latest``."""

    namespace: str
    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Parse ``[namespace/]name[:version][@alias]``.

        Raises:
            InvalidNameError: the text is anything else.
        """
        rest, at, alias = text.partition("@")
        path, colon, version = rest.partition(":")
        namespace, slash, name = path.rpartition("/")
        for part, present in ((namespace, slash), (name, True), (alias, at)):
            if present and not is_name(part):
                raise _invalid(text)
        if colon and not _VERSION.fullmatch(version):
            raise _invalid(text)
        return cls(namespace, name, int(version) if colon else None, alias or None)

    @property
    def full_name(self) -> str:
        """``[namespace/]name``, without version and alias."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def __str__(self) -> str:
        version = f":{self.version}" if self.version is not None else ""
        alias = f"@{self.alias}" if self.alias is not None else ""
        return f"{self.full_name}{version}{alias}"


def parse_name(text: str) -> ModelRef:
    """Parse a name that something new will get: no version, no alias.

    Raises:
        InvalidNameError: the text is not a name, or has a version or alias.
    """
    ref = ModelRef.parse(text)
    if ref.version is not None or ref.alias is not None:
        raise InvalidNameError(
            f"{text!r} is not a name for a new model: leave out the version and the alias",
            param="name",
        )
    return ref


def is_name(text: str) -> bool:
    """Whether ``text`` may be a namespace, a name or an alias."""
    return _NAME.fullmatch(text) is not None and ".." not in text


def _invalid(text: str) -> InvalidNameError:
    shown = ascii(text if len(text) <= 80 else text[:77] + "...")
    return InvalidNameError(f"{shown} is not a valid name: {_RULE}", param="name")
