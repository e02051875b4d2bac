"""Which encoding a file of text is in, told from its first bytes."""

from __future__ import annotations

import codecs

from llmos.errors import DataError
from llmos.storage.parquet import check_packages

SAMPLE_BYTES = 2**16
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""What a file begins with -> its encoding; the longer before those that they begin with."""
NEEDS = {"charset_normalizer": "charset-normalizer"}
_BINARY = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"PAR1", "Parquet"),
    (b"\x7fELF", "a program"),
)


def detect(sample: bytes, shown: str) -> str:
    """Return the name of the encoding of a text that begins with ``sample``: by its byte-order
    mark, UTF-8 where it is that, else what charset-normalizer takes it for.

    Raises:
        DataError: it is binary, or no encoding fits.
    """
    if (
        kind := next((name for head, name in _BINARY if sample.startswith(head)), None)
    ) is not None:
        raise DataError(f"{shown} is {kind}, not text: leave it out, or give it its own suffix")
    for mark, encoding in MARKS:
        if sample.startswith(mark):
            return encoding
    if b"\0" in sample:
        return _without_mark(sample, shown)
    if _is_utf8(sample):
        return "utf-8"
    check_packages(NEEDS)
    from charset_normalizer import from_bytes

    # It may end within a character, of up to four bytes, which then no encoding fits.
    cuts = (sample[: len(sample) - cut] for cut in range(4))
    best = next((best for cut in cuts if (best := from_bytes(cut).best())), None)
    if best is None:
        raise DataError(f"{shown} is in no encoding that is known: name it with --encoding")
    # What a part of a text shows as GB 2312 or GBK may go on with characters of GB 18030 alone.
    return "gb18030" if best.encoding in ("gb2312", "gbk") else str(best.encoding)


def check_encoding(name: str) -> str:
    """Return the name of an encoding of text. Raises DataError where there is none."""
    try:
        info = codecs.lookup(name)
    except LookupError:
        raise DataError(f"there is no encoding {name[:40]!r}: use utf-8, gb18030, …") from None
    if not info._is_text_encoding:
        raise DataError(f"{name[:40]!r} is no encoding of text: use utf-8, gb18030, …")
    return info.name


def _is_utf8(sample: bytes) -> bool:
    """Whether it is UTF-8 as far as it goes, where it may end within a character; bytes that are
    none, among four times as many characters beyond ASCII at least, are broken ones. In texts of
    other encodings there are more of them than of those."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(sample)
    broken = text.count("\ufffd")
    beyond_ascii = len(text) - len(text.encode("ascii", "ignore")) - broken
    return not broken or beyond_ascii > 4 * broken


def _without_mark(sample: bytes, shown: str) -> str:
    """UTF-16 without a mark: of most Latin text, every other byte is 0."""
    pairs = len(sample) // 2
    zeros = (sample[: pairs * 2 : 2].count(0), sample[1 : pairs * 2 : 2].count(0))
    if pairs and zeros[1] > 0.4 * pairs and zeros[0] < 0.05 * pairs:
        return "utf-16-le"
    if pairs and zeros[0] > 0.4 * pairs and zeros[1] < 0.05 * pairs:
        return "utf-16-be"
    raise DataError(f"{shown} is a binary file, not text: leave it out")
