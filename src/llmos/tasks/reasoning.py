"""Reasoning blocks: what a model thinks before it answers, split from the answer.

Which markers a model uses is read off its chat template. Where the template itself opens the block,
the answer begins inside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from llmos.tasks.stops import partial_chars


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The markers around a reasoning block."""

    name: str
    opens: str
    closes: str

    def is_open(self, prompt: str) -> bool:
        """Whether a prompt ends inside a block, opened by its template."""
        return prompt.rstrip().endswith(self.opens)

    def closing(self, prompt: str) -> str:
        """Return what closes the block that ``prompt`` opened: nothing is thought."""
        line_end = "" if prompt.endswith("\n") else "\n"
        return f"{line_end}\n{self.closes}\n\n"


FORMATS = (
    ReasoningFormat("think", "<think>", "</think>"),
    ReasoningFormat("brackets", "[THINK]", "[/THINK]"),
)


@lru_cache(maxsize=64)
def reasoning_format(template: str, name: str | None = None) -> ReasoningFormat | None:
    """Return the format of a model by its chat template, None where it has no such blocks.

    Args:
        name: what the model's manifest says it is; "none" for no blocks whatever the template says.
    """
    if name is not None:
        return next((one for one in FORMATS if one.name == name), None)
    return next((one for one in FORMATS if one.opens in template or one.closes in template), None)


class ReasoningSplitter:
    """Splits a stream of text into the reasoning at its beginning and the answer after it.

    White space around the block belongs to neither.

    Args:
        is_open: the text begins inside a block.
    """

    def __init__(self, markers: ReasoningFormat, *, is_open: bool) -> None:
        self._markers = markers
        self._state = "inside" if is_open else "start"
        self._held = ""
        self._has_reasoning = False

    @property
    def is_inside(self) -> bool:
        """Whether the next text is reasoning."""
        return self._state == "inside"

    @property
    def held_chars(self) -> int:
        """How much text is held back: it may be part of a marker, or space before one."""
        return len(self._held)

    def push(self, text: str) -> tuple[str, str]:
        """Return (reasoning, answer) that may go out now."""
        self._held += text
        reasoning = ""
        if self._state == "start":
            self._start()
        if self._state == "inside":
            reasoning = self._inside()
        if self._state == "between":
            self._held = self._held.lstrip()
            self._state = "answer" if self._held else "between"
        return reasoning, self._release() if self._state == "answer" else ""

    def flush(self) -> tuple[str, str]:
        """Return what was held back, once no more text comes."""
        left, self._held = self._held, ""
        return (left.rstrip(), "") if self._state == "inside" else ("", left)

    def _start(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(self._markers.opens):
            self._held = begun[len(self._markers.opens) :]
            self._state = "inside"
        elif not self._markers.opens.startswith(begun):
            self._state = "answer"

    def _inside(self) -> str:
        if not self._has_reasoning:
            self._held = self._held.lstrip()
            repeated = self._markers.opens  # some models open again what their template opened
            if self._held.startswith(repeated):
                self._held = self._held[len(repeated) :].lstrip()
            elif self._held and repeated.startswith(self._held):
                return ""
        reasoning, closes, after = self._held.partition(self._markers.closes)
        if closes:
            self._held, self._state = after, "between"
            return reasoning.rstrip()
        marker_chars = partial_chars(reasoning, self._markers.closes)
        kept = reasoning[: len(reasoning) - marker_chars].rstrip()
        self._held = reasoning[len(kept) :]
        self._has_reasoning = self._has_reasoning or bool(kept)
        return kept

    def _release(self) -> str:
        out, self._held = self._held, ""
        return out
