"""Texts with the mistakes that people and scanners make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Literal

from pydantic import Field

from llmos.data.operators.copies import EditOptions, Editor
from llmos.data.operators.noise_tables import HOMOPHONES, SHAPES, neighbours, others_of, read_as
from llmos.data.operators.pieces import Piece

Kind = Literal["typos", "ocr", "homophones", "shapes", "case", "spaces"]
Edit = tuple[int, str]
"""How many characters go, and what comes in their place."""
LOOKED_AT = 6
"""Places for each mistake: nearly always some of them are of use."""
_BESIDE = neighbours()
_READ_AS = read_as()
_SOUNDS, _LOOKS = others_of(HOMOPHONES), others_of(SHAPES)


class NoiseOptions(EditOptions):
    kinds: list[Kind] = Field(
        default=["typos", "ocr", "homophones", "shapes", "case", "spaces"],
        min_length=1,
        description="homophones and shapes are of Chinese; spaces are left out",
    )
    share: float = Field(
        default=0.05, gt=0, le=1, description="of the characters, one at least, that is changed"
    )


class Noise(Editor[NoiseOptions]):
    """Adds copies with mistakes: typos, what scanners misread, Chinese characters that sound
    or look alike, letters of the wrong case, spaces left out.

    >>> tried(Noise(kinds=["homophones"]), "Hello 在线")
    ['Hello 在线', 'Hello 再线']
    """

    name = "noise"
    options_type = NoiseOptions

    def changed(self, pieces: list[Piece], chance: Random) -> list[Piece]:
        """Return pieces with mistakes in them."""
        done = list(pieces)
        # From the end: what stands before stays in its place.
        for number, place in sorted(self._places(pieces, chance), reverse=True):
            text = done[number].text
            if edits := self._edits(text, place):
                gone, new = chance.choice(chance.choice(edits))
                text = text[:place] + new + text[place + gone :]
                done[number] = replace(done[number], text=text)
        return done

    def _places(self, pieces: list[Piece], chance: Random) -> list[tuple[int, int]]:
        """Return places of mistakes, each as likely, by the number of the piece."""
        every = [
            (number, place)
            for number, piece in enumerate(pieces)
            if not piece.spans
            for place in range(len(piece.text))
        ]
        count = max(1, round(self.options.share * len(every)))
        few = chance.sample(every, min(len(every), LOOKED_AT * count))
        chosen = [one for one in few if self._edits(pieces[one[0]].text, one[1])][:count]
        if len(chosen) == count or len(few) == len(every):
            return chosen
        usable = [one for one in every if self._edits(pieces[one[0]].text, one[1])]
        return chance.sample(usable, min(count, len(usable)))

    def _edits(self, text: str, place: int) -> list[list[Edit]]:
        """Return the mistakes that can be made at a place, of each kind that can."""
        found = [EDITS[kind](text, place) for kind in self.options.kinds]
        return [edits for edits in found if edits]


def _typos(text: str, place: int) -> list[Edit]:
    """A key beside, a letter left out, one twice, two exchanged."""
    letter = text[place]
    beside = _BESIDE.get(letter.lower())
    if beside is None:
        return []
    near = [(1, key.upper() if letter.isupper() else key) for key in beside]
    edits = [*near, (1, ""), (1, letter * 2)]
    after = text[place + 1 : place + 2]
    if after.lower() in _BESIDE and after != letter:
        edits.append((2, after + letter))
    return edits


def _ocr(text: str, place: int) -> list[Edit]:
    return [
        (length, new)
        for length in (1, 2)
        for new in _READ_AS.get(text[place : place + length], ())
        if place + length <= len(text)
    ]


def _homophones(text: str, place: int) -> list[Edit]:
    return [(1, other) for other in _SOUNDS.get(text[place], "")]


def _shapes(text: str, place: int) -> list[Edit]:
    return [(1, other) for other in _LOOKS.get(text[place], "")]


def _case(text: str, place: int) -> list[Edit]:
    letter = text[place]
    other = letter.swapcase()
    return [(1, other)] if other != letter and len(other) == 1 else []


def _spaces(text: str, place: int) -> list[Edit]:
    return [(1, "")] if text[place] == " " else []


EDITS: dict[Kind, Callable[[str, int], list[Edit]]] = {
    "typos": _typos,
    "ocr": _ocr,
    "homophones": _homophones,
    "shapes": _shapes,
    "case": _case,
    "spaces": _spaces,
}
