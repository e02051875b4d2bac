"""What a request needs of whatever serves it, and whether a model can take it at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llmos.tasks.candidates import Candidate
from llmos.tasks.tools import takes_tools
from llmos.types import Priority

BYTES_PER_TOKEN = 4
"""Of UTF-8 text, about, before any model's tokenizer has seen it."""
EXPECTED_TOKENS = 256
"""Of an answer whose request sets no limit, and at most of one that does."""


@dataclass(frozen=True, slots=True)
class Need:
    """A request as far as a choice goes; a constraint that is None holds always."""

    prompt_tokens: int
    output_tokens: int = 0
    priority: Priority = Priority.STANDARD
    language: str = ""
    """As metrics name it: ``zh``, or ``en_zh`` of a translation."""
    pair: tuple[str, str] | None = None
    """Of a translation."""
    is_chat: bool = False
    has_tools: bool = False
    """That the model may call or not, so it must be told of them."""
    max_latency_ms: float | None = None
    min_quality: float | None = None
    max_cost: float | None = None


class Reason(NamedTuple):
    """Why a model cannot take a request, as the end of a sentence, and the field that says so."""

    text: str
    param: str


def expected_tokens(max_tokens: int | None) -> int:
    """Return how long an answer is taken to become."""
    return EXPECTED_TOKENS if max_tokens is None else min(max_tokens, EXPECTED_TOKENS)


def tokens_of(text: str) -> int:
    """Return about how many tokens a text has; at least one."""
    num_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return max(num_bytes // BYTES_PER_TOKEN, 1)


def unsuited(candidate: Candidate, need: Need) -> Reason | None:
    """Return why a model cannot take a request; None: it can, as far as one can tell."""
    if need.pair is not None and not candidate.translates(*need.pair):
        source, target = need.pair
        return Reason(f"does not translate {source} to {target}", "target_lang")
    if need.is_chat and not candidate.chat_template:
        return Reason("has no chat template", "messages")
    if need.has_tools and not takes_tools(candidate.chat_template):
        return Reason("is told nothing of tools by its chat template", "tools")
    if candidate.task in ("chat", "generate") and need.prompt_tokens > candidate.context_tokens:
        limit = candidate.context_tokens
        field = "messages" if need.is_chat else "prompt"
        return Reason(f"has a context of {limit} tokens, too few for this prompt", field)
    return None
