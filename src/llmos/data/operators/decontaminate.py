"""The operator that drops what a model will be measured on (Brown et al. 2020, appendix C)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from llmos.data.operators.words import comparable_words
from llmos.data.pipeline.operator import Consulting, ConsultingOptions
from llmos.data.pipeline.options import Columns
from llmos.data.pipeline.record import Record
from llmos.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmos.data.shingles import Shingler

MAX_GRAMS = 2**25
"""Of a dataset, which bounds memory: 8 bytes each."""
_GRAMS_AT_ONCE = 2**22
_SHOWN_CHARS = 100


class DecontaminateOptions(ConsultingOptions):
    fields: list[str] = Field(
        default=[], description="of those datasets, that are looked for; none: all that are texts"
    )
    texts: list[str] = Field(default=[], description="that are looked for, too")
    ngram: int = Field(default=13, ge=1, le=100, description="words in a row; Chinese: characters")
    unit: Literal["auto", "characters"] = Field(
        default="auto",
        description="characters: for scripts that write no spaces, beside Chinese",
    )

    @model_validator(mode="after")
    def _has_any(self) -> Self:
        if not self.datasets and not self.texts:
            raise ValueError("name the datasets that are evaluated on, or give texts")
        return self


class Decontaminate(Consulting[DecontaminateOptions]):
    """Drops texts that share an n-gram of words (of Chinese, of characters) with datasets that
    models are evaluated on.

    Case, width and punctuation do not matter. A text of fewer words is looked for as a whole, and
    found where a record is nothing else.

    >>> clean = Decontaminate(texts=["What is the capital of France? 法国的首都是哪里？"], ngram=5)
    >>> tried(clean, "Quiz: what is the capital of France?", "The capital of France is old.")
    ... # doctest: +NORMALIZE_WHITESPACE
    ['dropped: contaminated: by texts: what is the capital of',
     'The capital of France is old.']
    >>> tried(clean, "请问：法国的首都是哪里", "法国很大")
    ['dropped: contaminated: by texts: 法 国 的 首 都', '法国很大']
    """

    name = "decontaminate"
    group = "deduplicate"
    options_type = DecontaminateOptions

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(seed, **options)
        self._folder: Path | None = None

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            record.dropped_reason = self._reason(record.text(self.options.field))
            yield record

    def build_index(self, datasets: Mapping[str, Iterator[Record]], folder: Path) -> None:
        """Write the n-grams of each dataset. Raises DataError: there are none, or too many."""
        import numpy as np

        for place, (name, records) in enumerate(datasets.items()):
            texts = (text for record in records for text in self._texts(record))
            grams = self._grams(name, texts)
            if not len(grams):
                where = ", ".join(self.options.fields) or "any field"
                raise DataError(f"{name} has no texts in {where}: set the operator's `fields`")
            np.save(folder / f"{place:03d}.npy", grams)

    def wrong_dataset(self, columns: Columns, shown: str) -> str | None:
        """Return why there are no texts in a dataset; None: there may be some."""
        if not self.options.fields or any(name in columns for name in self.options.fields):
            return None
        wanted = ", ".join(name[:80] for name in self.options.fields)
        return f"no row of {shown} has {wanted}, only {', '.join(columns)}: set `fields`"

    def use_index(self, folder: Path) -> None:
        """Look in the n-grams that were written there."""
        self._folder = folder

    def _reason(self, text: str) -> str | None:
        import numpy as np

        words = comparable_words(text, self.options.unit)
        numbers = self._shingler.numbers(words)
        for name, grams in self._indexes.items():
            places = np.minimum(np.searchsorted(grams, numbers), len(grams) - 1)
            found = np.flatnonzero(grams[places] == numbers)
            if len(found):
                first = int(found[0])
                shown = " ".join(words[first : first + self.options.ngram])[:_SHOWN_CHARS]
                return f"contaminated: by {name}: {shown}"
        return None

    @cached_property
    def _indexes(self) -> dict[str, NDArray[np.uint64]]:
        """The n-grams that are looked for, in order, by where they are from; none of it empty."""
        import numpy as np

        names = dict.fromkeys(self.options.datasets)
        if names and self._folder is None:
            raise DataError("decontaminate reads its datasets in a job: run it as one")
        found = {
            name: np.load(self._folder / f"{place:03d}.npy", mmap_mode="r")
            for place, name in enumerate(names)
            if self._folder is not None
        }
        grams = self._grams("texts", self.options.texts)
        return found | ({"texts": grams} if len(grams) else {})

    @cached_property
    def _shingler(self) -> Shingler:
        from llmos.data.shingles import Shingler

        return Shingler(self.options.ngram)

    def _texts(self, record: Record) -> Iterator[str]:
        for name in self.options.fields or record.fields:
            if isinstance(record.fields.get(name), str | list):
                yield record.text(name)

    def _grams(self, name: str, texts: Iterable[str]) -> NDArray[np.uint64]:
        """Return the n-grams of texts, each once, in order."""
        import numpy as np

        found = np.empty(0, np.uint64)
        parts, held = [found], 0
        for text in texts:
            numbers = self._shingler.numbers(comparable_words(text, self.options.unit))
            parts.append(numbers)
            held += len(numbers)
            if held >= _GRAMS_AT_ONCE:
                found = np.unique(np.concatenate(parts))
                parts, held = [found], 0
            if len(found) > MAX_GRAMS:
                raise DataError(
                    f"{name} has more than {MAX_GRAMS:,} different n-grams: evaluate on less of it"
                )
        return np.unique(np.concatenate(parts))
