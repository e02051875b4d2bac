"""Value types that cross packages and process boundaries.

Everything here is an immutable msgspec struct, so the same value travels through Python calls and,
msgpack-encoded, over the sockets between the server, its engines and its workers. Nothing here does
any work.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

import msgspec

FinishReason = Literal["stop", "length", "cancelled", "error"]


class Priority(enum.IntEnum):
    """Scheduling class of a request or job; the lower runs sooner."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2
    BACKGROUND = 3


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class SamplingParams(msgspec.Struct, frozen=True):
    """How tokens are picked: ``temperature=0`` is greedy, ``top_k=0`` and ``top_p=1`` no limit."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    logprobs: int | None = None
    """None: no log-probabilities; k: those of the chosen token and of the k likeliest."""
    ignore_eos: bool = False


class GenerateRequest(msgspec.Struct, frozen=True):
    """What every door (OpenAI, native API, CLI, SDK) turns a generation into.

    ``prompt`` is a conversation, a text, or token ids. The edge has already filled unset sampling
    fields from the model's generation defaults.
    """

    id: str
    model: str
    prompt: tuple[Message, ...] | str | tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    stop: tuple[str, ...] = ()
    n: int = 1
    echo: bool = False
    priority: Priority = Priority.STANDARD
    owner: str = "admin"


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token, its natural-log probability, and the likeliest tokens at its position."""

    token: str
    logprob: float
    bytes: bytes
    top: tuple[TokenLogprob, ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """Tokens read and written by one request."""

    prompt_tokens: int
    completion_tokens: int


class Chunk(msgspec.Struct, frozen=True):
    """A piece of one choice's output; the last chunk of a choice has a ``finish_reason``."""

    index: int = 0
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    """Set on the final chunk of the whole request."""


# -- work an engine does: token ids in, token ids or scores out ------------------------------------


class GenerateWork(msgspec.Struct, frozen=True, tag="generate"):
    """Continue one token sequence. ``generated_ids`` is what an interrupted run already sent."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    choice: int = 0
    generated_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()
    priority: Priority = Priority.STANDARD


class PipelineWork(msgspec.Struct, frozen=True, tag="pipeline"):
    """One forward task over one row of token ids: seq2seq, classify or token_classify."""

    kind: Literal["seq2seq", "classify", "token_classify"]
    input_ids: tuple[int, ...]
    options: dict[str, Any] = {}
    priority: Priority = Priority.STANDARD


class TokenPiece(msgspec.Struct, frozen=True):
    """One sampled token; ``top`` holds (token id, logprob) pairs, the likeliest first."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class TokensOut(msgspec.Struct, frozen=True, tag="tokens"):
    """Tokens sampled for one GenerateWork since the last report."""

    pieces: tuple[TokenPiece, ...] = ()
    finish_reason: FinishReason | None = None


class PipelineOut(msgspec.Struct, frozen=True, tag="pipeline_out"):
    """Result of one PipelineWork.

    seq2seq fills ``token_ids``; classify fills ``scores`` with one row of label probabilities;
    token_classify fills ``scores`` with one row of label probabilities per input token.
    """

    token_ids: tuple[int, ...] = ()
    scores: tuple[tuple[float, ...], ...] = ()


Work = GenerateWork | PipelineWork
WorkOut = TokensOut | PipelineOut


# -- artifacts -------------------------------------------------------------------------------------


class FileRef(msgspec.Struct, frozen=True):
    """A stored file: ``digest`` is ``sha256:<64 hex>``."""

    digest: str
    size: int


class NewVersion(msgspec.Struct, frozen=True):
    """An artifact version ready to be committed: its blobs are already stored."""

    kind: Literal["model", "dataset"]
    name: str
    files: dict[str, FileRef]
    manifest: dict[str, Any]
    inputs: tuple[str, ...] = ()
    """Lineage: refs (``name:version``) or digests this was made from."""


class JobResult(msgspec.Struct, frozen=True):
    """What a job handler returns: committed together with the job's success, or not at all."""

    summary: dict[str, Any] = {}
    artifacts: tuple[NewVersion, ...] = ()
