"""Makes tokenizer.json where a model has only an older tokenizer's files.

Runs in a job worker only, as it may load transformers (and torch with it); the server never does.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from llmos.errors import InvalidModelError
from llmos.library import marian

_VOCABULARIES = frozenset(
    {"vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"}
)
"""Files of which an older tokenizer has one; without any, transformers makes an empty tokenizer."""
_FAILURES = (
    OSError,
    ValueError,
    ImportError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
)
"""What transformers raises on tokenizer files it cannot use."""


def tokenizer_json(directory: Path) -> bytes:
    """Return the content of tokenizer.json made from the tokenizer files in ``directory``.

    Raises:
        InvalidModelError: there are none, or transformers cannot convert them.
    """
    if (directory / marian.SOURCE_FILE).exists():
        return marian.tokenizer_json(directory)
    if not any((directory / name).exists() for name in _VOCABULARIES):
        known = ", ".join(sorted(_VOCABULARIES))
        raise InvalidModelError(
            f"there is no tokenizer.json, and none can be made: add it (or {known})",
            param="files",
        )
    # By name: the import contract keeps transformers out of everything the server may load.
    transformers = importlib.import_module("transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True
        )
        text: str = tokenizer.backend_tokenizer.to_str()
    except _FAILURES as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:160] if lines else type(error).__name__
        raise InvalidModelError(
            "there is no tokenizer.json, and none can be made from the other files "
            f"({reason}): save the tokenizer with transformers (AutoTokenizer.from_pretrained, "
            "save_pretrained) and add its tokenizer.json",
            param="files",
        ) from error
    return text.encode()
