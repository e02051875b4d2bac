"""The operator that keeps one of several pieces of texts that are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence

from pydantic import Field

from llmos.data.operators.words import spoken_words
from llmos.data.pipeline.operator import KEY_BYTES, TextOptions, Trimmer
from llmos.data.pipeline.record import Record
from llmos.data.text_pieces import PIECES, Unit, loosened, without


class LineDedupOptions(TextOptions):
    unit: Unit = Field(
        default="line", description="of what one stays; paragraphs are parted by empty lines"
    )
    least: int = Field(
        default=5,
        ge=1,
        description="words of a piece that is compared, of Chinese characters; shorter ones stay",
    )
    loose: bool = Field(
        default=False, description="letters' case, width, spaces and punctuation do not matter"
    )
    least_left: int = Field(
        default=1, ge=0, description="characters; a record of which less is left is dropped"
    )


class LineDedup(Trimmer[LineDedupOptions]):
    """Takes out of texts the lines, sentences or paragraphs that are in one before, or further up,
    in the whole dataset.

    Of a conversation every turn is cut by itself. What a dropped record has first goes with it.

    >>> footer = "Subscribe to our newsletter today!"
    >>> tried(LineDedup(), f"One.\\n{footer}", f"{footer}\\nTwo.\\n\\nThree.", footer)
    ['One.\\nSubscribe to our newsletter today!', 'Two.\\n\\nThree.', 'dropped: too little left: 0']
    >>> tried(LineDedup(unit="sentence"), "转载请注明出处。有雨。", "天晴。转载请注明出处。")
    ['转载请注明出处。有雨。', '天晴。']
    """

    name = "line_dedup"
    options_type = LineDedupOptions

    def keys(self, record: Record) -> Sequence[bytes]:
        """Return a hash of each piece that is long enough."""
        return [
            hashlib.blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
            for text in record.texts(self.options.field)
            for piece, _ in self._pieces(text)
        ]

    def trim(self, record: Record, repeated: Collection[int]) -> None:
        """Take pieces out, unless less than ``least_left`` would be left."""
        field = self.options.field
        gone = frozenset(repeated)
        left = []
        count = 0
        for text in record.texts(field):
            places = [place for _, place in self._pieces(text)]
            mine = {place for number, place in enumerate(places, count) if number in gone}
            left.append(without(text, PIECES[self.options.unit](text), mine))
            count += len(places)
        length = len("\n".join(left).strip())
        if length < self.options.least_left:
            record.dropped_reason = f"too little left: {length}"
            return
        texts = iter(left)
        record.change_text(field, lambda _: next(texts))

    def _pieces(self, text: str) -> Iterator[tuple[str, int]]:
        """Yield the pieces that are compared, as they are, and their places among all pieces."""
        for place, (start, end) in enumerate(PIECES[self.options.unit](text)):
            piece = text[start:end].strip()
            if len(spoken_words(piece)) >= self.options.least:
                yield loosened(piece) if self.options.loose else piece, place
