"""Value types that cross packages and process boundaries.

Everything here is an immutable msgspec struct, so the same value travels through Python calls and,
msgpack-encoded, over the sockets between the server, its engines and its workers. Nothing here does
any work.
"""

from __future__ import annotations

import enum
from typing import Any, Literal, get_args

import msgspec

FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]


class Priority(enum.IntEnum):
    """Scheduling class of a request or job; the lower runs sooner."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2
    BACKGROUND = 3


class ToolCall(msgspec.Struct, frozen=True):
    """A function that the assistant asks to be called; ``arguments`` is JSON text."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation. A ``tool`` turn answers the call ``tool_call_id``."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class Tool(msgspec.Struct, frozen=True):
    """A function the model may ask for; ``parameters`` is a JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}


class ToolUse(msgspec.Struct, frozen=True):
    """Which tools a conversation has. ``choice`` is auto, none, required, or one tool's name."""

    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    parallel: bool = True


class Grammar(msgspec.Struct, frozen=True):
    """What the output must match. ``source`` is the JSON text of a schema, a regular expression,
    the JSON text of a list of choices, or a Lark grammar; json_object needs none."""

    kind: Literal["json_object", "json_schema", "regex", "choice", "lark"]
    source: str = ""


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
    no_repeat_ngram_size: int = 0
    """0: no limit; n: no n tokens appear twice (prompt included)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, number added to its logit)."""


PersonalType = Literal[
    "NAME",
    "EMAIL",
    "PHONE",
    "ID_CARD_CN",
    "US_SSN",
    "BANK_CARD",
    "IBAN",
    "PASSPORT",
    "OTHER_ID",
    "ADDRESS",
    "IP",
    "URL",
    "SECRET",
    "CRYPTO_WALLET",
    "DATE_OF_BIRTH",
]
PERSONAL_TYPES: tuple[PersonalType, ...] = get_args(PersonalType)


class Anonymise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which personal data is hidden in what models are asked, and in what they answer."""

    types: tuple[PersonalType, ...] = PERSONAL_TYPES
    language: Literal["auto", "en", "zh"] = "auto"
    """Whose names; everything else is found in either language."""
    names: Literal["cautious", "eager"] = "cautious"
    action: Literal["replace", "mask", "pseudonym"] = "replace"
    answers: bool = True
    """Whether answers are looked at, too."""


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
    grammar: Grammar | None = None
    tool_use: ToolUse = ToolUse()
    deadline_ms: int | None = None
    """None: no deadline; else the request fails that long after it came in."""
    template_options: dict[str, Any] = {}
    """More variables of the chat template, such as ``enable_thinking``."""
    stream: bool = False
    """Whether pieces are shown as they come: then a tool call's arguments are too, before it is
    known that all of them are JSON."""
    is_whole: bool = False
    """Nothing is looked at before every choice is complete."""
    anonymise: Anonymise | None = None
    """What was hidden in the prompt already, and is to be in the answer."""


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token, its natural-log probability, and the likeliest tokens at its position."""

    token: str
    logprob: float | None
    """None for the first token of an echoed prompt, which nothing predicts."""
    bytes: bytes
    top: tuple[TokenLogprob, ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """Tokens read and written by one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt, those found in the prefix cache."""
    reasoning_tokens: int = 0
    """Of the completion, those of its reasoning block."""


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A piece of tool call number ``index``: its id and name come first, then its arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Chunk(msgspec.Struct, frozen=True):
    """A piece of one choice's output; the last chunk of a choice has a ``finish_reason``."""

    index: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    """Set on the final chunk of the whole request."""


# -- work an engine does: token ids in, token ids or scores out ------------------------------------


class GenerateWork(msgspec.Struct, frozen=True, tag="generate"):
    """Continue one token sequence. ``generated_ids`` is what an interrupted run already sent.

    ``tenant`` shares the machine fairly with the others; ``cache_salt`` keeps its cached prefixes
    from them. ``deadline_s`` counts from submission.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    choice: int = 0
    generated_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()
    priority: Priority = Priority.STANDARD
    tenant: str = ""
    cache_salt: bytes = b""
    deadline_s: float | None = None
    grammar: Grammar | None = None
    prompt_logprobs: int | None = None
    """None: none; k: report log-probabilities of the prompt's tokens, with the k likeliest."""
    adapter: str = ""
    """Key of a loaded adapter; empty: the base model."""
    is_whole: bool = False
    """Nothing of the answer is looked at before all of it is here."""


class PipelineWork(msgspec.Struct, frozen=True, tag="pipeline"):
    """One forward task over one row of token ids."""

    kind: Literal[
        "seq2seq",
        "classify",
        "token_classify",
        "embed",
        "fill_mask",
        "answer",
        "rate",
        "parse",
    ]
    input_ids: tuple[int, ...]
    options: dict[str, Any] = {}
    priority: Priority = Priority.STANDARD
    tenant: str = ""
    deadline_s: float | None = None
    type_ids: tuple[int, ...] = ()
    """Which text of a pair each token belongs to; empty: all to one."""


class TokenPiece(msgspec.Struct, frozen=True):
    """One sampled token; ``top`` holds (token id, logprob) pairs, the likeliest first."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class TokensOut(msgspec.Struct, frozen=True, tag="tokens"):
    """Tokens sampled for one GenerateWork since the last report.

    ``prompt`` (where asked for) holds the prompt's tokens but the first, once, before any piece.
    """

    pieces: tuple[TokenPiece, ...] = ()
    finish_reason: FinishReason | None = None
    prompt: tuple[TokenPiece, ...] = ()
    num_cached: int = 0
    """Prompt tokens found in the prefix cache; said in the first report."""


class PipelineOut(msgspec.Struct, frozen=True, tag="pipeline_out"):
    """Result of one PipelineWork.

    seq2seq fills ``token_ids``, and with ``logprobs`` one row of ``scores``: those of the tokens,
    and of the end behind them if it is there; classify fills ``scores`` with one row of label
    probabilities; token_classify fills ``scores`` with one row of label probabilities per input
    token; embed fills ``vector`` with little-endian float32 numbers; fill_mask fills ``scores``
    with one row of probabilities per mask, and ``token_ids`` with the tokens they are of, row after
    row; answer fills ``scores`` with the logits of an answer's start at each token, and those of
    its end; rate fills ``scores`` with one number; parse fills ``token_ids`` with the head of each
    word, then with the number of each word's relation to it, then with that of its part of speech,
    and ``scores`` with one row of the probabilities of these heads with these relations.
    """

    token_ids: tuple[int, ...] = ()
    scores: tuple[tuple[float, ...], ...] = ()
    vector: bytes = b""


Work = GenerateWork | PipelineWork
WorkOut = TokensOut | PipelineOut


PerClass = tuple[int, int, int, int]
"""One count for each Priority, the best class first."""


class EngineStats(msgspec.Struct, frozen=True):
    """What one loaded model does: gauges of this moment, and counters since it was loaded."""

    running: PerClass = (0, 0, 0, 0)
    """Rows that take part in steps."""
    waiting: PerClass = (0, 0, 0, 0)
    """Works that are queued, preempted ones too."""
    preemptions: PerClass = (0, 0, 0, 0)
    """By the class of the row that gave way."""
    kv_used_blocks: int = 0
    """Blocks that rows hold; cached prefixes nobody uses do not count."""
    kv_blocks: int = 0
    prefix_query_tokens: int = 0
    """Prompt tokens looked up in the prefix cache."""
    prefix_hit_tokens: int = 0
    prompt_tokens: int = 0
    """Prompt tokens computed, recomputation after a preemption included."""
    generated_tokens: int = 0
    draft_tokens: int = 0
    """Tokens that speculation proposed."""
    accepted_tokens: int = 0
    """Of those, the ones that were kept."""


# -- artifacts -------------------------------------------------------------------------------------


class FileRef(msgspec.Struct, frozen=True):
    """A stored file: ``digest`` is ``sha256:<64 hex>``."""

    digest: str
    size: int


NESTED_FILES = {"1_Pooling--config.json": "1_Pooling/config.json"}
"""A version's files lie in one directory: name kept -> where the file lies in a model's folder."""
VECTOR_FILES = (".txt", ".vec")
"""How the names of files of word vectors end, where a model could be named as well."""


class NewVersion(msgspec.Struct, frozen=True):
    """An artifact version ready to be committed: its blobs are already stored."""

    kind: Literal["model", "adapter", "dataset"]
    name: str
    files: dict[str, FileRef]
    manifest: dict[str, Any]
    inputs: tuple[str, ...] = ()
    """Lineage: refs (``name:version``) or digests this was made from."""


class JobResult(msgspec.Struct, frozen=True):
    """What a job handler returns: committed together with the job's success, or not at all."""

    summary: dict[str, Any] = {}
    artifacts: tuple[NewVersion, ...] = ()
