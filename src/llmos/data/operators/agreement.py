"""Self-consistency (Wang et al. 2022, arXiv:2203.11171): of answers, what most say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import regex
from pydantic import Field, field_validator

from llmos.data.operators.patterns import compiled
from llmos.data.operators.prompts import Said
from llmos.data.pipeline.operator import Options
from llmos.data.pipeline.options import ChatModel
from llmos.data.pipeline.record import Record

MAX_SAMPLES = 32
MAX_TEMPLATE_CHARS = 20_000
TIMEOUT_S = 1.0
_ENDS = " .。!！"


class SampledOptions(Options):
    model: ChatModel = Field(description="a chat model, which answers")
    system: str = Field(default="", description="told to the model before all else")
    agree: float = Field(
        default=0.5, gt=0, le=1, description="share of the answers that must say the same"
    )
    compare: str | None = Field(
        default=None,
        max_length=2000,
        description="regular expression of what is compared: its first group, where it is last "
        "found; the whole answer by default",
    )
    temperature: float = Field(default=0.7, ge=0, le=2, description="0: all answers are the same")
    max_tokens: int = Field(default=512, ge=1, description="longer answers count for nothing")

    @field_validator("compare")
    @classmethod
    def _has_a_group(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if compiled(value).groups < 1:
            raise ValueError("put what is compared in parentheses, as in 'Answer: (.*)'")
        return value


def voted(answers: Sequence[Said], compare: str | None) -> list[list[Said]]:
    """Return the answers that came to an end, those that say the same together: most first, of as
    many the earlier.

    Raises:
        TimeoutError: what is compared was not found in time.
    """
    groups: dict[str, list[Said]] = {}
    for answer in answers:
        key = _key(answer.text, compare) if answer.is_whole else ""
        if key:
            groups.setdefault(key, []).append(answer)
    return sorted(groups.values(), key=len, reverse=True)


def _key(text: str, compare: str | None) -> str:
    """Return what of an answer is compared, empty where there is nothing."""
    if compare is not None:
        found = regex.findall(compare, text, timeout=TIMEOUT_S)
        last = found[-1] if found else ""
        text = last if isinstance(last, str) else last[0]
    return " ".join(text.split()).casefold().strip(_ENDS)


def values_of(record: Record) -> dict[str, str]:
    """Return what a template may have of a record: its texts, those of messages, and numbers."""
    found: dict[str, str] = {}
    for name, value in record.fields.items():
        if isinstance(value, str | list):
            found[name] = record.text(name)
        elif isinstance(value, int | float):
            found[name] = str(value)
    return found


def note(record: Record, by: str, **known: Any) -> None:
    """Note in a record who made it, and what else is known of that."""
    record.meta["synthesise"] = {"by": by, **known}
