"""New records with some words as a masked language model guesses them."""

from __future__ import annotations

from pydantic import Field

from llmos.data.operators.chance import chance
from llmos.data.operators.copies import AugmentOptions
from llmos.data.operators.eda import free_words
from llmos.data.operators.pieces import Piece, cut
from llmos.data.operators.rewriting import Rewriter, Rewritten
from llmos.data.operators.words import HAN, is_symbols
from llmos.data.pipeline.options import MaskFiller
from llmos.data.pipeline.record import Record, Row
from llmos.errors import DataError

MASK = "[MASK]"
"""What marks a mask for any model."""
MAX_MASKS = 32
"""That one request may have."""


class MaskedOptions(AugmentOptions):
    model: MaskFiller = Field(description="fills masks")
    share: float = Field(
        default=0.15, gt=0, le=1, description="of the words, one at least, that is guessed anew"
    )
    top_k: int = Field(default=10, ge=1, le=100, description="how many guesses to draw from")


class MaskedWords(Rewriter[MaskedOptions]):
    """Adds copies in which a masked language model guesses some words anew; of Chinese, characters.

    A guess is drawn by its score, and is another word than the one that was there. Negations stay.

    >>> masked = MaskedWords(model="encoder-mini", share=0.5)
    >>> masked.ask = lambda path, bodies: [
    ...     {"masks": [[{"token": "dogs", "score": 0.9}]]} for body in bodies
    ... ]
    >>> tried(masked, "cats!")
    ['cats!', 'dogs!']
    """

    name = "masked_words"
    options_type = MaskedOptions

    def rewritten(self, records: list[Record], texts: list[str]) -> list[list[Rewritten]]:
        """Return texts with some words guessed; the masks of a copy are one question."""
        drafts = [
            (place, pieces, chosen)
            for place, (record, text) in enumerate(zip(records, texts, strict=True))
            for pieces, chosen in self._drafts(record, text)
        ]
        model = {"model": self.options.model, "top_k": self.options.top_k}
        bodies = [
            {**model, "text": _with(pieces, dict.fromkeys(chosen, MASK))}
            for _, pieces, chosen in drafts
        ]
        made: list[list[Rewritten]] = [[] for _ in texts]
        answers = self.ask("/api/v1/fill_mask", bodies)
        for (place, pieces, chosen), answer in zip(drafts, answers, strict=True):
            luck = chance(self.seed, self.name, records[place].id, "guess", len(made[place]))
            guesses: dict[int, str] = {}
            for one, mask in zip(chosen, answer["masks"], strict=True):
                guess = _drawn(mask, pieces[one].text, luck.random())
                if guess is not None:
                    guesses[one] = guess
            made[place].append((_with(pieces, guesses), None))
        return made

    def _drafts(self, record: Record, text: str) -> list[tuple[list[Piece], list[int]]]:
        """Return the pieces of a text and the places to mask, of each copy."""
        if MASK in text:
            raise DataError(f"the text has {MASK} in it: its words cannot be masked")
        pieces = [part for piece in cut(text) for part in _tokens(piece)]
        free = free_words(pieces)
        if not free:
            return []
        words = sum(piece.is_word for piece in pieces)
        count = min(len(free), MAX_MASKS, max(1, round(self.options.share * words)))
        lucks = [
            chance(self.seed, self.name, record.id, number) for number in range(self.options.copies)
        ]
        return [(pieces, sorted(luck.sample(free, count))) for luck in lucks]


def _tokens(piece: Piece) -> list[Piece]:
    """Return a Chinese word as its characters, which are a model's tokens, any other as it is."""
    if not HAN.match(piece.text):
        return [piece]
    return [Piece(character, is_word=True) for character in piece.text]


def _with(pieces: list[Piece], texts: dict[int, str]) -> str:
    return "".join(texts.get(place, piece.text) for place, piece in enumerate(pieces))


def _drawn(mask: list[Row], before: str, luck: float) -> str | None:
    """Return a guess, drawn by the scores; None where there is no other word among them."""
    words = [
        (str(one["token"]), max(0.0, float(one["score"])))
        for one in mask
        if _is_word(one["token"]) and one["token"].lower() != before.lower()
    ]
    left = luck * sum(score for _, score in words)
    for word, score in words:
        left -= score
        if left <= 0:
            return word
    return None


def _is_word(token: str) -> bool:
    return bool(token) and not is_symbols(token) and not any(map(str.isspace, token))
