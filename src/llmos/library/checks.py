"""Whether a directory of files is a model llmos can run safely; each fault is one clear sentence.

Looks at what files say, never runs or unpickles anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers

from llmos.errors import InvalidModelError, UnsafeFileError
from llmos.library.architectures import AskedTask, identify
from llmos.library.embedders import wanted_task
from llmos.library.files import CONFIG_FILE, QUANTIZED_FILE, TOKENIZER_FILE, read_json
from llmos.library.manifest import read_tensors
from llmos.library.quantized import Structure, read_quantized

_CODE_KEYS = ("auto_map", "custom_pipelines")
_SAMPLES = ("", " ", "Hello, world!\n", "naïve café", "你好，世界！", "🙂\u200d", "\x00\t1234")
"""Texts that a tokenizer must get through; a broken one fails here and not in the server."""
_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "shared.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "tokens_embed.weight",
)


def check_config(directory: Path, task: AskedTask | None = None) -> dict[str, Any]:
    """Return config.json when it names a supported network that needs no code of its own.

    Args:
        task: what the model is to be used for, where the files do not say it.

    Raises:
        UnsafeFileError: a config asks to run code from the repository.
        InvalidModelError: it is missing or malformed, quantised, or of an unsupported network.
    """
    config = read_json(directory / CONFIG_FILE)
    tokenizer_config = read_json(directory / "tokenizer_config.json", missing_ok=True)
    for filename, values in ((CONFIG_FILE, config), ("tokenizer_config.json", tokenizer_config)):
        for key in _CODE_KEYS:
            if values.get(key):
                raise UnsafeFileError(
                    f"{filename} asks to run code from the repository ({key}), which llmos never "
                    "does: choose a model whose network is part of transformers",
                    param="files",
                )
    architecture = identify(config, wanted_task(directory, config, task))
    if architecture.family != "causal" and (directory / QUANTIZED_FILE).exists():
        raise InvalidModelError(
            f"{QUANTIZED_FILE} can only generate text, which {architecture.name[:80]!r} with this "
            "task does not: choose the original model",
            param="files",
        )
    if config.get("quantization_config"):
        raise InvalidModelError(
            "this checkpoint is quantised (quantization_config): choose the original one",
            param="files",
        )
    return config


def check_weights(directory: Path, config: Mapping[str, Any]) -> int:
    """Return how many token ids the embeddings hold, every weights file checked.

    Raises:
        InvalidModelError: a file is missing, corrupted, or does not fit config.json.
    """
    rows = _embedding_rows(directory, config)
    declared = config.get("vocab_size")
    if rows is not None and type(declared) is int and declared != rows:
        raise InvalidModelError(
            f"config.json says vocab_size {declared} but the embeddings have {rows} rows: "
            "the files are not of one model",
            param="files",
        )
    if rows is None and type(declared) is not int:
        raise InvalidModelError(
            "neither config.json nor the weights say how large the vocabulary is", param="files"
        )
    return rows if rows is not None else int(declared or 0)


def check_tokenizer(directory: Path, embedding_rows: int) -> None:
    """Check that tokenizer.json works and that every id it can give has an embedding.

    Raises:
        InvalidModelError: it does not, which mostly means it is another model's.
    """
    with tokenizer_errors(TOKENIZER_FILE):
        tokenizer = tokenizers.Tokenizer.from_file(str(directory / TOKENIZER_FILE))
        for text in _SAMPLES:
            tokenizer.decode(tokenizer.encode(text).ids)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest < 0:
        raise InvalidModelError(f"{TOKENIZER_FILE} has an empty vocabulary", param="files")
    if largest >= embedding_rows:
        raise InvalidModelError(
            f"the tokenizer does not belong to this model: it gives ids up to {largest}, "
            f"but the embeddings have {embedding_rows} rows; use the model's own tokenizer.json",
            param="files",
        )


@contextmanager
def tokenizer_errors(filename: str) -> Iterator[None]:
    """Raise InvalidModelError, naming the file, for whatever the tokenizers library raises."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # it raises bare Exceptions, and panics are BaseExceptions
        reason = " ".join(str(error).split())[:200]
        raise InvalidModelError(
            f"{filename} is not a valid tokenizer ({reason}): download or export it again",
            param="files",
        ) from error


def _embedding_rows(directory: Path, config: Mapping[str, Any]) -> int | None:
    """Return the rows of the token embeddings; None where no tensor has a known name."""
    if (directory / QUANTIZED_FILE).exists():
        header = read_quantized(directory)
        if header.structure is not None:
            return _rows_of_tiles(header.structure, config)
        tensors = header.tensors
    else:
        tensors = read_tensors(directory)
    rows = [
        info.shape[0]
        for name, info in tensors.items()
        if len(info.shape) == 2 and name.endswith(_EMBEDDINGS)
    ]
    return min(rows, default=None)


def _rows_of_tiles(structure: Structure, config: Mapping[str, Any]) -> int:
    said = {"hidden_size": structure.hidden, "num_hidden_layers": len(structure.layers)}
    for key, size in said.items():
        if config.get(key) != size:
            raise InvalidModelError(
                f"config.json says {key} {str(config.get(key))[:40]} but {QUANTIZED_FILE} {size}: "
                "the files are not of one model",
                param="files",
            )
    return structure.vocab
