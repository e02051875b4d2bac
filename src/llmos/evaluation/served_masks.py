"""How well a served model fills masks: some tokens of texts are hidden from it, and asked for.

Of each text 15% of the tokens are hidden, at least one (Devlin et al., 2018, arXiv:1810.04805,
section 3.1), all of them behind the mask: always the same ones. Tokens that are not whole words or
characters by themselves, as parts of a letter, cannot be told from an answer, and are never chosen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from tokenizers import Encoding, Tokenizer

from llmos.data.record import Document
from llmos.errors import DataError
from llmos.evaluation.asking import Ask, ask_all, read
from llmos.models.sentinels import sentinel_ids
from llmos.tasks.masks import ANY_MASK, MAX_MASKS

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

SHARE = 0.15
TOP = 5
PIECE_TOKENS = 128
"""Of a long text, so many are read at a time."""
ROOM = 0.75
"""Of the model's context: with masks in it a text may be cut into more tokens."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A text with masks, and the tokens behind them, in order."""

    text: str
    gold: tuple[str, ...]


def fill_mask(context: JobContext, model: str, records: Sequence[Document]) -> dict[str, Any]:
    """The shares of the hidden tokens that the model finds likeliest, and among the likeliest 5."""
    hidden = list(_hidden(context, model, records))
    if not hidden:
        raise DataError("the texts have no token that could be hidden and asked for")
    asks = [
        Ask("/api/v1/fill_mask", {"model": model, "text": one.text, "top_k": TOP}) for one in hidden
    ]
    first = among = total = 0
    for one, answer in zip(hidden, ask_all(context, asks), strict=True):
        for gold, fills in zip(one.gold, answer["masks"], strict=True):
            tokens = [fill["token"] for fill in fills]
            first += tokens[:1] == [gold]
            among += gold in tokens
            total += 1
    return {"accuracy": first / total, f"accuracy_at_{TOP}": among / total, "masked": total}


def _hidden(context: JobContext, model: str, records: Sequence[Document]) -> Iterator[Hidden]:
    about = read(context, f"/api/v1/models/{model}")
    file = read(context, f"/api/v1/models/{model}/files/tokenizer.json")
    tokenizer = Tokenizer.from_str(msgspec.json.encode(file).decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    size = max(1, min(PIECE_TOKENS, int(ROOM * int(about["manifest"]["context_tokens"]))))
    sentinels = sentinel_ids(tokenizer.token_to_id)
    most = min(MAX_MASKS, len(sentinels) - 1) if sentinels else MAX_MASKS
    masks = {ANY_MASK, about["manifest"]["special_tokens"].get("mask", ANY_MASK)}
    for number, record in enumerate(records):
        if any(mask in record.text for mask in masks):
            raise DataError(f"text {number + 1} has a mask in it: give whole texts")
        chance = random.Random(f"masks:{number}")
        for piece in pieces(tokenizer, record.text, size):
            if (found := hide(tokenizer, piece, chance, most)) is not None:
                yield found


def pieces(tokenizer: Tokenizer, text: str, size: int) -> Iterator[str]:
    """Yield a text in parts of ``size`` tokens."""
    (encoding,) = tokenizer.encode_batch([text], add_special_tokens=False)
    offsets = encoding.offsets
    for start in range(0, len(offsets), size):
        part = offsets[start : start + size]
        yield text[part[0][0] : part[-1][1]]


def hide(
    tokenizer: Tokenizer, text: str, chance: random.Random, most: int = MAX_MASKS
) -> Hidden | None:
    """Return a text with some of its tokens masked, ``most`` of them at most; None where none of
    them can be."""
    (encoding,) = tokenizer.encode_batch([text], add_special_tokens=False)
    places = _places(tokenizer, encoding, text)
    if not places:
        return None
    chosen = [place for place in places if chance.random() < SHARE][:most]
    parts, gold, end = [], [], 0
    for start, stop, token in chosen or [chance.choice(places)]:
        parts += [text[end:start], ANY_MASK]
        gold.append(token)
        end = stop
    return Hidden("".join([*parts, text[end:]]), tuple(gold))


def _places(tokenizer: Tokenizer, encoding: Encoding, text: str) -> list[tuple[int, int, str]]:
    """Return where the tokens begin and end that stand for whole characters, and for what."""
    normal = tokenizer.normalizer
    places: list[tuple[int, int, str]] = []
    for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        shown = text[start:stop]
        plain = shown.strip()
        written = (normal.normalize_str(plain) if normal is not None else plain).strip()
        if written and tokenizer.decode([token]).strip() == written:
            start += len(shown) - len(shown.lstrip())
            places.append((start, start + len(plain), written))
    return places
