"""Documents made for bench/data.py: English pages of the words of a tale, clean and not, some of
them copies of others but for a word.

Every document follows from its number and the seed alone, so that ten million of them can be made
a part at a time.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

TALES = Path(__file__).parents[1] / "src" / "llmos" / "starter" / "text" / "tales.txt"
WORDS_PER_DOCUMENT = 250
"""The median; the longest are some ten times as long."""
COPIED = 0.12
"""Documents that are one of the 1,000 before, exactly or but for a word or two."""
_DAMAGE = {
    "’": "â€™", "“": "â€œ", "é": "Ã©",
}  # fmt: skip


def documents(count: int, seed: int = 0) -> Iterator[tuple[str, int]]:
    """Yield each text, and the number of the first document of its cluster of copies."""
    makers = Pages()
    for number in range(count):
        yield makers.page(number, seed)


class Pages:
    """Makes pages out of the words of a text, each as often as it stands there."""

    def __init__(self) -> None:
        self._words = re.findall(r"[a-z]+", TALES.read_text("utf-8").lower())

    def page(self, number: int, seed: int) -> tuple[str, int]:
        """Return the text of a page, and the number of the page it is a copy of, or its own."""
        draw = random.Random(f"{seed}/{number}")
        if number and draw.random() < COPIED:
            origin = self.page(max(0, number - draw.randint(1, 1000)), seed)
            return self._copy(origin[0], draw), origin[1]
        kind = draw.random()
        if kind < 0.03:
            return self._sentence(draw) + ".", number  # too short to keep
        if kind < 0.06:
            return "\n".join([self._sentence(draw) + "."] * 40), number  # repeats itself
        if kind < 0.08:
            return " ".join(draw.choice("#|*=") * 3 for _ in range(200)), number  # no words
        text = self._paragraphs(draw)
        if kind < 0.16:
            for right, wrong in _DAMAGE.items():
                text = text.replace(right, wrong)
        return text, number

    def _paragraphs(self, draw: random.Random) -> str:
        wanted = draw.lognormvariate(0, 0.6) * WORDS_PER_DOCUMENT
        is_plain = draw.random() < 0.5  # the others have quotation marks and accents
        paragraphs, count = [], 0
        while count < wanted:
            sentences = [self._sentence(draw) for _ in range(draw.randint(2, 6))]
            count += sum(sentence.count(" ") + 1 for sentence in sentences)
            if not is_plain and draw.random() < 0.5:
                sentences[0] = f"“{sentences[0]},” said the café’s owner"
            paragraphs.append(". ".join(sentences) + ".")
        return "\n\n".join(paragraphs)

    def _sentence(self, draw: random.Random) -> str:
        words = draw.choices(self._words, k=draw.randint(7, 22))
        if draw.random() < 0.2:
            words[draw.randrange(len(words))] = str(draw.randint(2, 5000))
        if len(words) > 12:
            words[len(words) // 2] += ","
        return " ".join(words).capitalize()

    def _copy(self, text: str, draw: random.Random) -> str:
        if "\n\n" not in text:
            return text
        words = text.split(" ")
        for _ in range(draw.randint(0, len(words) // 150)):  # most of it stays the same
            words[draw.randrange(len(words))] = draw.choice(self._words)
        return " ".join(words)
