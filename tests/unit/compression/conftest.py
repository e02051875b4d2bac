"""A job's context over a blob store, and tiny models with a tokenizer to quantise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.engines.decoders import VOCAB, make_decoder
from tests.unit.library.conftest import RecordedContext
from tokenizers import Tokenizer, models, pre_tokenizers


@pytest.fixture
def context(tmp_path: Path) -> RecordedContext:
    (tmp_path / "home").mkdir()
    return RecordedContext(tmp_path / "home")


@pytest.fixture
def model_of(tmp_path: Path) -> Callable[..., Path]:
    """Return a function: a kind of decoder -> its directory, complete for an import."""

    def make(kind: str = "llama", **changes: Any) -> Path:
        directory = make_decoder(tmp_path / kind, kind, torch.bfloat16, **changes)
        vocabulary = {f"w{i}": i for i in range(VOCAB)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, "w0"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.save(str(directory / "tokenizer.json"))
        return directory

    return make
