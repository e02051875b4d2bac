"""One choice of a generation: an engine's tokens to what a user sees of them.

Text is made of tokens, reasoning split off, stop strings looked for in the answer, tool calls found
in what is left. Pure: tokens in, `Chunk`s out. Where the tokens come from is ``generate``'s
business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from llmos.tasks.reasoning import ReasoningSplitter
from llmos.tasks.stops import StopMatcher
from llmos.tasks.tokenizers import Detokenizer, Tokenizer
from llmos.tasks.tools import Part, ToolParser
from llmos.types import (
    Chunk,
    FinishReason,
    TokenLogprob,
    TokenPiece,
    TokensOut,
    ToolCallDelta,
)


class Choice:
    """Text of one token sequence, cut exactly before a stop string.

    Args:
        index: the choice's number in its request.
        tokenizer: the model's.
        stops: stop strings; they count in the answer, not in the reasoning before it.
        eos_ids: tokens that end the sequence and stand for no text.
        context_ids: tokens before the first, when the text continues theirs.
        with_logprobs: whether chunks carry log-probabilities.
        echo_ids: the prompt, where its log-probabilities are shown before the first token.
        shows_output: False where the prompt is all that was asked for.
        reasoning: splits reasoning off, where the model's family has such.
        tools: finds tool calls, where there may be any.
        visible_ids: special tokens that the two look for.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        *,
        stops: Sequence[str] = (),
        eos_ids: Sequence[int] = (),
        context_ids: Sequence[int] = (),
        with_logprobs: bool = False,
        echo_ids: tuple[int, ...] = (),
        shows_output: bool = True,
        reasoning: ReasoningSplitter | None = None,
        tools: ToolParser | None = None,
        visible_ids: Collection[int] = frozenset(),
    ) -> None:
        self.index = index
        self.num_tokens = 0
        self.num_reasoning = 0
        """Of the tokens, those of the reasoning block."""
        self.num_cached = 0
        """Of the prompt's tokens, those found in the prefix cache."""
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._eos_ids = frozenset(eos_ids)
        self._with_logprobs = with_logprobs
        self._echo_ids = echo_ids
        self._has_echoed = not echo_ids
        self._shows_output = shows_output
        self._reasoning = reasoning
        self._tools = tools
        self._visible_ids = visible_ids
        self._detokenizer = Detokenizer(tokenizer, context_ids, visible_ids)
        self._matcher = StopMatcher(stops)
        self._text_chars = 0
        self._held: deque[tuple[int, int, TokenPiece]] = deque()  # start and end in the text

    def push(self, out: TokensOut) -> Chunk | None:
        """Take tokens; return what they add to the answer, or None when that is nothing yet."""
        self.num_cached = max(self.num_cached, out.num_cached)
        if not self._has_echoed and (out.prompt or len(self._echo_ids) == 1):
            return self._echo(out)
        return self._push(out)

    def _push(self, out: TokensOut) -> Chunk | None:
        thoughts: list[str] = []
        parts: list[Part] = []
        for piece in out.pieces:
            if self.finish_reason is None:
                self._push_piece(piece, thoughts, parts)
        if self.finish_reason is None and out.finish_reason is not None:
            self._end(out.finish_reason, thoughts, parts)
        pieces = self._released()
        if not (thoughts or parts or pieces) and self.finish_reason is None:
            return None
        return Chunk(
            index=self.index,
            text="".join(part for part in parts if isinstance(part, str)),
            reasoning="".join(thoughts),
            tool_calls=tuple(part for part in parts if isinstance(part, ToolCallDelta)),
            token_ids=tuple(piece.token_id for piece in pieces),
            logprobs=tuple(map(self._logprob, pieces)) if self._with_logprobs else (),
            finish_reason=self.finish_reason,
        )

    def _push_piece(self, piece: TokenPiece, thoughts: list[str], parts: list[Part]) -> None:
        self.num_tokens += 1
        if piece.token_id in self._eos_ids:
            if self._echo_ids:  # whoever reads a prompt's log-probabilities reads the end's too
                self._held.append((self._text_chars, self._text_chars, piece))
                self._end("stop", thoughts, parts)
            return
        text = self._detokenizer.push(piece.token_id)
        start, self._text_chars = self._text_chars, self._text_chars + len(text)
        self._held.append((start, self._text_chars, piece))
        if self._reasoning is not None:
            was_inside = self._reasoning.is_inside
            reasoning, text = self._reasoning.push(text)
            thoughts += [reasoning] if reasoning else []
            self.num_reasoning += was_inside or self._reasoning.is_inside
        self._answer(self._matcher.push(text), parts)
        if self._matcher.stopped:
            self._finish("stop", parts)
        elif self._tools is not None and self._tools.is_done:
            self.finish_reason = "tool_calls"

    def _answer(self, text: str, parts: list[Part]) -> None:
        """Pass on what no stop string can cut off any more."""
        if self._tools is not None and text:
            parts += self._tools.push(text)
        elif text:
            parts.append(text)

    def _end(self, reason: FinishReason, thoughts: list[str], parts: list[Part]) -> None:
        """Let out what was held back, since no more text comes."""
        if self._reasoning is not None:
            reasoning, text = self._reasoning.flush()
            thoughts += [reasoning] if reasoning else []
            self._answer(self._matcher.push(text), parts)
        self._answer(self._matcher.flush(), parts)
        self._finish(reason, parts)

    def _finish(self, reason: FinishReason, parts: list[Part]) -> None:
        if self._tools is not None:
            parts += self._tools.flush()
            if self._tools.num_calls and reason == "stop":
                reason = "tool_calls"
        self.finish_reason = reason

    def _released(self) -> list[TokenPiece]:
        """Return the tokens whose text is out: wholly, or, at the end, in part."""
        held_chars = self._matcher.held_chars
        if self._reasoning is not None:
            held_chars += self._reasoning.held_chars
        sent_chars = self._text_chars - held_chars
        pieces = []
        while self._held:
            start, end, piece = self._held[0]
            is_out = end <= sent_chars
            if not is_out and self.finish_reason is not None:
                is_out = start < sent_chars
            if not is_out:
                break
            pieces.append(piece)
            self._held.popleft()
        return pieces

    # -- the prompt ------------------------------------------------------------------------------

    def _echo(self, out: TokensOut) -> Chunk:
        """Return the prompt with its log-probabilities, and what was generated already."""
        self._has_echoed = True
        first, *others = self._echo_ids
        logprobs = [self._token(first, None), *map(self._logprob, out.prompt)]
        assert len(others) == len(out.prompt), "the engine reports every token but the first"
        if self._shows_output:
            rest = self._push(out)
        else:
            self.finish_reason, rest = "length", None
        return Chunk(
            index=self.index,
            text=self._tokenizer.decode(self._echo_ids) + (rest.text if rest else ""),
            token_ids=self._echo_ids + (rest.token_ids if rest else ()),
            logprobs=(*logprobs, *(rest.logprobs if rest else ())),
            finish_reason=self.finish_reason,
        )

    def _logprob(self, piece: TokenPiece) -> TokenLogprob:
        top = tuple(self._token(token_id, logprob) for token_id, logprob in piece.top)
        return self._token(piece.token_id, piece.logprob or 0.0, top)

    def _token(
        self, token_id: int, logprob: float | None, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        raw = self._tokenizer.token_bytes(token_id)
        text = raw.decode("utf-8", "replace")
        is_silent = self._tokenizer.is_special(token_id) and token_id not in self._visible_ids
        return TokenLogprob(text, logprob, b"" if is_silent else raw, top)
