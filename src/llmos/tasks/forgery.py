"""Special tokens that user text spells: kept out of a chat template's way, and encoded as text.

Every occurrence becomes one private-use character that appears nowhere else, before the template is
rendered; the prompt is cut there, so that its tokens are the template's own or plain text.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from llmos.errors import InvalidRequestError
from llmos.tasks.tokenizers import LONG_TEXT_CHARS, Tokenizer

_SLICE_CHARS = 2**16
"""Text looked through at once: other threads go on in between."""
_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


@dataclass(frozen=True, slots=True)
class ChatText:
    """A rendered conversation; ``forged`` says what some of its characters stand for."""

    text: str
    forged: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> str:
        """Return the text with what was forged in its place."""
        return self.text.translate({ord(char): name for char, name in self.forged.items()})

    async def ids(self, tokenizer: Tokenizer, *, special_tokens: bool = False) -> tuple[int, ...]:
        """Return the tokens; none that is special comes of what was forged.

        Args:
            special_tokens: whether those that the model expects around a text are added.
        """
        if not self.forged:
            return await tokenizer.ids(self.text, special_tokens=special_tokens)
        ids: list[int] = []
        for piece in re.split(f"([{''.join(self.forged)}])", self.text):
            if piece in self.forged:
                ids += tokenizer.plain_ids(self.forged[piece])
            elif piece:
                ids += await tokenizer.ids(piece, special_tokens=special_tokens and not ids)
        return tuple(ids)


async def without_forgeries(
    variables: dict[str, Any], tokenizer: Tokenizer, template: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a template's variables without special tokens, and what now stands for which.

    Args:
        variables: as users gave them; anything JSON.
        template: as it may hold private-use characters, too.
    """
    size = sum(map(len, _strings(variables)))
    if size <= LONG_TEXT_CHARS:
        return _without_forgeries(variables, tokenizer, template)
    return await asyncio.to_thread(_without_forgeries, variables, tokenizer, template)


def _without_forgeries(
    variables: dict[str, Any], tokenizer: Tokenizer, template: str
) -> tuple[dict[str, Any], dict[str, str]]:
    names = tokenizer.special_names
    pattern = _pattern(names)
    texts = list(_strings(variables))
    found = {match[0] for text in texts for match in _matches(text, names, pattern)}
    if not found:
        return variables, {}
    stand_ins = dict(zip(sorted(found), _free(set(template).union(*texts)), strict=False))
    if len(stand_ins) < len(found):
        raise InvalidRequestError(
            "The messages use every private-use character there is: leave some out.",
            param="messages",
        )

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {replaced(key): replaced(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [replaced(inner) for inner in value]
        if not isinstance(value, str):
            return value
        pieces, at = [], 0
        for match in _matches(value, names, pattern):
            pieces += [value[at : match.start()], stand_ins[match[0]]]
            at = match.end()
        return "".join([*pieces, value[at:]])

    return replaced(variables), {char: name for name, char in stand_ins.items()}


def _matches(text: str, names: Sequence[str], pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Yield where any of the names stands; a long text is looked through in slices."""
    longest, at = max(map(len, names), default=0), 0
    while longest and at < len(text):
        match = pattern.search(text, at, at + _SLICE_CHARS + longest)
        if match is not None:
            yield match
        at = at + _SLICE_CHARS + 1 if match is None else match.end()


@lru_cache(maxsize=16)
def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    """Return what finds any of the names in time that hardly depends on their number."""
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for char in name:
            node = node.setdefault(char, {})
        node[""] = {}
    return re.compile(_alternatives(tree))


def _alternatives(node: dict[str, Any]) -> str:
    """Return the pattern of what follows in a tree of characters; the shortest name wins."""
    if "" in node:
        return ""
    branches = [re.escape(char) + _alternatives(after) for char, after in node.items()]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _free(taken: Collection[str]) -> Iterator[str]:
    chars = map(chr, itertools.chain(*_PRIVATE_USE))
    return (char for char in chars if char not in taken)
