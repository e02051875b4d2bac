"""Small tokenizers of every family, and a model whose engine is a Python function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RustTokenizer

from llmos.kernel.models import ModelSpec
from llmos.library.versions import Version
from llmos.settings import Settings
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.templates import Templates
from llmos.tasks.tokenizers import Tokenizer, Tokenizers
from llmos.types import (
    FileRef,
    GenerateWork,
    PipelineOut,
    PipelineWork,
    Priority,
    TokenPiece,
    TokensOut,
)

TEXTS = [
    "Hello, world! The quick brown fox jumps over the lazy dog.",
    "你好，世界！我们今天去北京。",
    "naïve café 🙂🙃 Ω≈ç",
]


def byte_level() -> RustTokenizer:
    """As GPT-2: bytes merged a little, so that Chinese characters span several tokens."""
    tokenizer = RustTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_fallback() -> RustTokenizer:
    """As Llama 2: words with ▁, and raw bytes for what the vocabulary lacks."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for token in ("▁Hello", ",", "▁world", "!", "▁", "H", "e", "l", "o", "▁Hell", "▁a", "b"):
        vocabulary.setdefault(token, len(vocabulary))
    merges: list[tuple[str, str]] = []
    tokenizer = RustTokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return tokenizer


def characters() -> RustTokenizer:
    """One token a character."""
    alphabet = sorted({char for text in TEXTS for char in text})
    vocabulary = {"<unk>": 0} | {char: i + 1 for i, char in enumerate(alphabet)}
    tokenizer = RustTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True)])
    return tokenizer


def words() -> RustTokenizer:
    """One token a word, [CLS] and [SEP] around the text, as a classifier has them."""
    names = ["[UNK]", "[CLS]", "[SEP]", "Alice", "flew", "from", "Paris", "to", "New", "York", "."]
    names += ["on", "Monday", "hello", "good", "bad", "very", ","]
    tokenizer = RustTokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return tokenizer


FAMILIES: dict[str, Callable[[], RustTokenizer]] = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "characters": characters,
    "words": words,
}


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[[str], Tokenizer]:
    """Return a tokenizer by family: byte_level, byte_fallback, characters, words."""
    built = {name: Tokenizer(make().to_str().encode()) for name, make in FAMILIES.items()}
    return built.__getitem__


@dataclass
class FakeModel:
    """Library, residency and lease in one: answers with what ``tokens`` and ``pipeline`` say."""

    manifest: dict[str, Any]
    tokenizer_json: bytes
    tokens: Callable[[GenerateWork], Iterable[TokensOut]] | None = None
    pipeline: Callable[[PipelineWork], PipelineOut] | None = None
    works: list[Any] = field(default_factory=list)
    num_leases: int = 0
    lease_terms: list[tuple[str, int, bool]] = field(default_factory=list)
    """Of each lease: its tenant, its works, and whether it ends with them."""
    deadlines_s: list[float | None] = field(default_factory=list)
    num_cancelled: int = 0
    num_laid_out: int = 0

    @property
    def version(self) -> Version:
        files = {"tokenizer.json": FileRef("sha256:" + "0" * 64, len(self.tokenizer_json))}
        digest = "sha256:" + "1" * 64
        return Version(
            1, "model", "", "m", 1, digest, self.manifest, files, "admin", 0.0, None, (), ()
        )

    def resolve(self, ref: str) -> Version:
        return self.version

    def directory(self, version: Version) -> Path:
        self.num_laid_out += 1
        return Path("/models/m")

    def read_bytes(self, digest: str) -> bytes:
        return self.tokenizer_json

    def status(self) -> list[dict[str, Any]]:
        return []

    @asynccontextmanager
    async def lease(
        self,
        spec: ModelSpec,
        priority: Priority,
        deadline_s: float | None = None,
        *,
        tenant: str = "",
        num_works: int = 1,
        ends_early: bool = False,
    ) -> AsyncIterator[FakeModel]:
        self.num_leases += 1
        self.deadlines_s.append(deadline_s)
        self.lease_terms.append((tenant, num_works, ends_early))
        try:
            yield self
        finally:
            self.num_leases -= 1

    async def generate(self, work: GenerateWork) -> AsyncGenerator[TokensOut, None]:
        assert self.tokens is not None
        self.works.append(work)
        has_finished = False
        try:
            for out in self.tokens(work):
                await asyncio.sleep(0)
                has_finished = out.finish_reason is not None
                yield out
        finally:
            self.num_cancelled += not has_finished

    async def run(self, work: PipelineWork) -> PipelineOut:
        assert self.pipeline is not None
        self.works.append(work)
        await asyncio.sleep(0)
        return self.pipeline(work)


@pytest.fixture
async def served_by() -> AsyncIterator[Callable[..., Any]]:
    """Return a coroutine function: (family, task, **manifest) -> (context, served, fake model)."""
    contexts: list[TaskContext] = []

    async def make(
        family: str | Callable[[], RustTokenizer],
        task: str,
        *,
        tokens: Callable[[GenerateWork], Iterable[TokensOut]] | None = None,
        pipeline: Callable[[PipelineWork], PipelineOut] | None = None,
        **manifest: Any,
    ) -> tuple[TaskContext, Served, FakeModel]:
        tokenizer = FAMILIES[family] if isinstance(family, str) else family
        text = tokenizer().to_str().encode()
        values = {"task": task, "engine": "echo", "architecture": "e", "model_type": "e"}
        fake = FakeModel({**values, "context_tokens": 64, **manifest}, text, tokens, pipeline)
        context = TaskContext(fake, fake, Tokenizers(fake), Templates(), Settings())
        contexts.append(context)
        return context, await context.serve("m", {task}), fake

    yield make
    for context in contexts:
        await context.close()


@pytest.fixture
def spelled() -> Callable[..., list[TokensOut]]:
    """Return a function: ids -> one TokensOut each, the last with a finish reason."""

    def outs(ids: Sequence[int], finish: Any = "stop") -> list[TokensOut]:
        last = len(ids) - 1
        return [
            TokensOut((TokenPiece(i, -0.5, ((i, -0.5),)),), finish if at == last else None)
            for at, i in enumerate(ids)
        ]

    return outs
