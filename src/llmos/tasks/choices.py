"""One choice of a generation: an engine's tokens to the text and log-probabilities a user sees.

Pure: tokens in, `Chunk`s out. Where the tokens come from is ``generate``'s business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from llmos.tasks.stops import StopMatcher
from llmos.tasks.tokenizers import Detokenizer, Tokenizer
from llmos.types import Chunk, FinishReason, TokenLogprob, TokenPiece, TokensOut


class Choice:
    """Text of one token sequence, cut exactly before a stop string.

    Args:
        index: the choice's number in its request.
        tokenizer: the model's.
        stops: stop strings.
        eos_ids: tokens that end the sequence and stand for no text.
        context_ids: tokens before the first, when the text continues theirs.
        with_logprobs: whether chunks carry log-probabilities.
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
    ) -> None:
        self.index = index
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._eos_ids = frozenset(eos_ids)
        self._with_logprobs = with_logprobs
        self._detokenizer = Detokenizer(tokenizer, context_ids)
        self._matcher = StopMatcher(stops)
        self._text_chars = 0
        self._sent_chars = 0
        self._held: deque[tuple[int, int, TokenPiece]] = deque()  # start and end in the text

    def push(self, out: TokensOut) -> Chunk | None:
        """Take tokens; return what they add to the answer, or None when that is nothing yet."""
        text = "".join(self._push_piece(piece) for piece in out.pieces)
        if self._matcher.stopped:
            self.finish_reason = "stop"
        elif out.finish_reason is not None:
            self.finish_reason = out.finish_reason
            text += self._matcher.flush()
        self._sent_chars += len(text)
        pieces = self._released()
        if not text and not pieces and self.finish_reason is None:
            return None
        return Chunk(
            index=self.index,
            text=text,
            token_ids=tuple(piece.token_id for piece in pieces),
            logprobs=tuple(map(self._logprob, pieces)) if self._with_logprobs else (),
            finish_reason=self.finish_reason,
        )

    def _push_piece(self, piece: TokenPiece) -> str:
        if self._matcher.stopped:
            return ""
        self.num_tokens += 1
        if piece.token_id in self._eos_ids:
            return ""
        text = self._detokenizer.push(piece.token_id)
        start, self._text_chars = self._text_chars, self._text_chars + len(text)
        self._held.append((start, self._text_chars, piece))
        return self._matcher.push(text)

    def _released(self) -> list[TokenPiece]:
        """Return the tokens whose text is out: wholly, or, at the end, in part."""
        pieces = []
        while self._held:
            start, end, piece = self._held[0]
            is_out = end <= self._sent_chars
            if not is_out and self.finish_reason is not None:
                is_out = start < self._sent_chars
            if not is_out:
                break
            pieces.append(piece)
            self._held.popleft()
        return pieces

    def _logprob(self, piece: TokenPiece) -> TokenLogprob:
        top = tuple(self._token(token_id, logprob) for token_id, logprob in piece.top)
        return self._token(piece.token_id, piece.logprob or 0.0, top)

    def _token(
        self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        raw = self._tokenizer.token_bytes(token_id)
        return TokenLogprob(raw.decode("utf-8", "replace"), logprob, raw, top)
