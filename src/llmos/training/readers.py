"""Token columns of the tasks of encoders beyond classes and tags, and what is saved beside one.

`fill_mask` reads texts, long ones in pieces; `answer` a question beside windows of a context;
`embed` two texts that belong together; `rate` a text with a number; `parse` a sentence and its
tree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from llmos.data.encoding import encode_texts
from llmos.data.record import Alike, Document, Question, Rated, Record
from llmos.data.trees import Parsed
from llmos.errors import DataError
from llmos.library.files import MODULES_FILE, POOLING_FILE, SENTENCE_FILE
from llmos.models.biaffine import IGNORE
from llmos.models.words import UPOS
from llmos.tasks.windows import Window, windows_of
from llmos.training.recipe import Recipe
from llmos.training.recipe_sections import ContrastiveSection

COLUMNS = {
    "fill_mask": ("input_ids", "is_text"),
    "answer": ("input_ids", "type_ids", "span"),
    "embed": ("input_ids", "positive_ids", "negative_ids"),
    "rate": ("input_ids", "score"),
    "parse": ("input_ids", "heads", "relations", "tags"),
}
MAY_BE_EMPTY = "negative_ids"
MAX_WINDOWS = 512
"""Of a context."""
Row = tuple[Sequence[int], ...]


def fits(names: Sequence[str], row: Row, limit: int) -> bool:
    """Whether no column of an example is empty or longer than ``limit`` tokens."""
    return all(
        (name == MAY_BE_EMPTY or len(column) > 0) and len(column) <= limit
        for name, column in zip(names, row, strict=True)
    )


def texts(tokenizer: Tokenizer, records: Sequence[Record]) -> Iterator[Row]:
    """Token ids, and 1 for those that stand for text; a text too long in one go is several rows."""
    found = (record.text for record in records if isinstance(record, Document))
    for whole in encode_texts(tokenizer, found):
        for piece in (whole, *whole.overflowing):
            is_text = [1 - special for special in piece.special_tokens_mask]
            if any(is_text):
                yield piece.ids, is_text


def questions(tokenizer: Tokenizer, records: Sequence[Record], limit: int) -> Iterator[Row]:
    """Token ids, which of the texts each token is of, and the tokens that the answer begins and
    ends with: the first token twice where a window holds no answer (Devlin et al., 2018, 4.3)."""
    for record in records:
        if not isinstance(record, Question):
            continue
        (pair,) = tokenizer.encode_batch([(record.question, record.context)])
        windows = windows_of(pair, limit, MAX_WINDOWS)
        if not windows:  # counted as too long
            yield pair.ids, pair.type_ids, (0, 0)
        for window in windows:
            types = window.type_ids or (0,) * len(window.ids)
            yield window.ids, types, _span(window, record)


def alike(tokenizer: Tokenizer, records: Sequence[Record]) -> Iterator[Row]:
    """Token ids of both texts, and of one that does not belong to them, which may be none."""
    found = [record for record in records if isinstance(record, Alike)]
    anchors = encode_texts(tokenizer, (record.anchor for record in found))
    positives = encode_texts(tokenizer, (record.positive for record in found))
    negatives = encode_texts(tokenizer, (record.negative for record in found))
    for record, *encoded in zip(found, anchors, positives, negatives, strict=True):
        anchor, positive, negative = (one.ids for one in encoded)
        yield anchor, positive, negative if record.negative else ()


def rated(tokenizer: Tokenizer, records: Sequence[Record]) -> Iterator[Row]:
    """Token ids, and the bits of the number as a float32."""
    found = [record for record in records if isinstance(record, Rated)]
    encoded = encode_texts(tokenizer, (record.text for record in found))
    for record, one in zip(found, encoded, strict=True):
        yield one.ids, np.array([record.score], np.float32).view(np.int32).tolist()


def parsed(
    tokenizer: Tokenizer, records: Sequence[Record], label_ids: Mapping[str, int]
) -> Iterator[Row]:
    """Token ids; and of each word its head, its relation to that, and its part of speech, IGNORE
    where that is not known.

    Raises:
        DataError: a word is a special token's name, which no byte is read of.
    """
    found = [record for record in records if isinstance(record, Parsed)]
    encoded = encode_texts(tokenizer, (record.text for record in found))
    for record, one in zip(found, encoded, strict=True):
        if len(one.ids) - sum(one.special_tokens_mask) != len(record.text.encode()):
            raise DataError(f"{record.text[:80]!r} has a word that is the name of a special token")
        relations = [label_ids[relation] for relation in record.relations]
        tags = [UPOS.index(tag) for tag in record.tags] or [IGNORE] * len(record.words)
        yield one.ids, record.heads, relations, tags


def write_modules(recipe: Recipe, model: PreTrainedModel, directory: Path) -> None:
    """Write what sentence-transformers, and our library, read of how texts become vectors."""
    pooling = (recipe.contrastive or ContrastiveSection()).pooling
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", POOLING_FILE.partition("--")[0], "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    modes = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}
    told = {f"pooling_mode_{name}": mode == pooling for mode, name in modes.items()}
    told |= {"word_embedding_dimension": model.config.hidden_size}
    lengths = {"max_seq_length": recipe.max_tokens, "do_lower_case": False}
    for name, content in ((MODULES_FILE, modules), (POOLING_FILE, told), (SENTENCE_FILE, lengths)):
        (directory / name).write_text(json.dumps(content, indent=2))


def _span(window: Window, record: Question) -> tuple[int, int]:
    places = [
        place
        for place, (part, (start, end)) in enumerate(zip(window.parts, window.offsets, strict=True))
        if part == 1 and start < record.end and end > record.start
    ]
    if not places:
        return 0, 0
    is_whole = (
        window.offsets[places[0]][0] <= record.start and window.offsets[places[-1]][1] >= record.end
    )
    return (places[0], places[-1]) if is_whole else (0, 0)
