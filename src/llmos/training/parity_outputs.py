"""What an engine says against what the trained model says, by kind of network.

Differences are of log-probabilities, which logits that differ by no more than a constant share, and
count in parts of the row's largest logit where that is above 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmos.engines.base import MAX_LOGPROBS
from llmos.engines.seq2seq import generation_defaults
from llmos.training.parity_engine import TOLERANCE, Compared, Loaded, pieces_of
from llmos.training.publish import CHECK_TOKENS, PublishingError
from llmos.types import GenerateWork, PipelineOut, PipelineWork, SamplingParams

if TYPE_CHECKING:
    from llmos.training.parity import Trained

MAX_ROWS = 16
TINIEST = 1e-30
"""Of a probability: softmax gives 0 for less in float32."""


def compare_decoder(trained: Trained, engine: Loaded, rows: Sequence[Sequence[int]]) -> Compared:
    """Compare the log-probabilities of prompts and of what is written behind them, greedily.

    Of each position those of the token that is there and of the likeliest ones are compared.

    Raises:
        PublishingError: they differ.
    """
    vocab = trained.manifest.vocab_size
    count = min(MAX_LOGPROBS, vocab) if vocab else MAX_LOGPROBS
    limit = min(trained.recipe.max_length, engine.context_tokens)
    new = min(CHECK_TOKENS, limit // 2)
    prompts = [tuple(row) for row in rows if 0 < len(row) <= limit - new][-MAX_ROWS:]
    sampling = SamplingParams(max_tokens=new, temperature=0.0, logprobs=count, ignore_eos=True)
    works = [
        GenerateWork(prompt, sampling, prompt_logprobs=count, adapter=engine.adapter)
        for prompt in prompts
    ]
    compared = Compared()
    for prompt, outs in zip(prompts, engine.run(works), strict=True):
        read, written = pieces_of(outs)
        ids = [*prompt, *(piece.token_id for piece in written)]
        logits = _decoder_logits(trained, ids[:-1])
        _compare_pieces(compared, logits, [*read, *written])
        _compare_greedy(compared, logits[len(prompt) - 1 :], ids[len(prompt) :])
        compared.num_rows += 1
    return some(compared)


def compare_seq2seq(trained: Trained, engine: Loaded, rows: Sequence[Sequence[int]]) -> Compared:
    """Compare what a decoder writes greedily, and its log-probabilities.

    Raises:
        PublishingError: they differ.
    """
    limit = min(trained.recipe.max_length, engine.context_tokens)
    sources = [tuple(row) for row in rows if 0 < len(row) <= limit][-MAX_ROWS:]
    options = {"num_beams": 1, "max_tokens": min(CHECK_TOKENS, limit // 2), "logprobs": 1}
    works = [PipelineWork("seq2seq", source, options) for source in sources]
    compared = Compared()
    for source, outs in zip(sources, engine.run(works), strict=True):
        (out,) = outs
        assert isinstance(out, PipelineOut)
        row, logits = _written(trained, source, options["max_tokens"])
        chosen = [logits[i].log_softmax(-1)[token] for i, token in enumerate(row)]
        same = _num_same(row, out.token_ids)
        shared = min(same + 1, len(row), len(out.scores[0])) if row[:same] == row else same
        theirs = torch.tensor(out.scores[0][:shared])
        if shared:
            ours = torch.stack(chosen[:shared]).cpu()
            difference = float((ours - theirs).abs().max()) / scale(logits)
            compared.note(difference, shared, "log-probabilities")
        if same < len(out.token_ids):
            token = row[same] if same < len(row) else None
            _check_tie(logits, same, token, out.token_ids[same])
        compared.num_greedy += same
        compared.num_rows += 1
    return some(compared)


def compare_classes(trained: Trained, engine: Loaded, rows: Sequence[Sequence[int]]) -> Compared:
    """Compare the log-probabilities of a text's classes, or of each token's.

    Raises:
        PublishingError: they differ.
    """
    limit = min(trained.recipe.max_length, engine.context_tokens)
    texts = [tuple(row) for row in rows if 0 < len(row) <= limit][-MAX_ROWS:]
    is_whole = trained.manifest.task == "classify"
    works = [PipelineWork("classify" if is_whole else "token_classify", text) for text in texts]
    compared = Compared()
    for text, outs in zip(texts, engine.run(works), strict=True):
        (out,) = outs
        assert isinstance(out, PipelineOut)
        logits = _logits(trained, {"input_ids": _ids(trained, text)})
        ours = logits.reshape(-1, logits.shape[-1]).log_softmax(-1)
        theirs = torch.tensor(out.scores).clamp(min=TINIEST).log()
        if ours.shape != theirs.shape:
            shapes = f"{list(theirs.shape)}, not {list(ours.shape)}"
            raise PublishingError(f"the engine's scores have the shape {shapes}")
        difference = float((ours.clamp(min=_log(TINIEST)) - theirs).abs().max()) / scale(logits)
        compared.note(difference, len(theirs), "label probabilities")
        compared.num_rows += 1
    return some(compared)


def _compare_pieces(compared: Compared, logits: Tensor, pieces: Sequence[Any]) -> None:
    """Compare the log-probabilities that the engine told of each position ``[positions, vocab]``
    with the model's."""
    logprobs = logits.log_softmax(-1)
    for ours, piece in zip(logprobs, pieces, strict=True):
        told = {piece.token_id: piece.logprob, **dict(piece.top)}
        ids = torch.tensor([*told])
        theirs = torch.tensor([*told.values()])
        difference = float((ours[ids] - theirs).abs().max()) / scale(logits)
        compared.note(difference, 1, "log-probabilities")


def _compare_greedy(compared: Compared, logits: Tensor, written: Sequence[int]) -> None:
    """See that each token is the likeliest behind those before it, or as likely as that."""
    best = logits.argmax(-1).tolist()
    for position, (ours, theirs) in enumerate(zip(best, written, strict=True)):
        if ours != theirs:
            _check_tie(logits, position, ours, theirs)
        compared.num_greedy += 1


def _check_tie(logits: Tensor, position: int, ours: int | None, theirs: int) -> None:
    """Let two tokens pass between which rounding decides.

    Raises:
        PublishingError: it is not rounding.
    """
    if ours is not None:
        gap = float((logits[position, ours] - logits[position, theirs]).abs())
        if gap <= 2 * TOLERANCE * scale(logits):
            return
    raise PublishingError(
        f"the engine's greedy token number {position} is {theirs}, "
        f"where the trained model writes {ours}: it is not published"
    )


def _num_same(ours: Sequence[int], theirs: Sequence[int]) -> int:
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def _decoder_logits(trained: Trained, ids: Sequence[int]) -> Tensor:
    return _logits(trained, {"input_ids": _ids(trained, ids), "use_cache": False})


@torch.inference_mode()
def _written(trained: Trained, source: Sequence[int], count: int) -> tuple[list[int], Tensor]:
    """Return what the trained model writes greedily, its end token too, and the logits of each
    token ``[tokens, vocab]``."""
    model = trained.model
    ids = _ids(trained, source)
    row = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=generation_defaults(model.generation_config),
        do_sample=False,
        num_beams=1,
        max_new_tokens=count,
    )
    logits = _logits(trained, {"input_ids": ids, "decoder_input_ids": row[:, :-1]})
    return row[0, 1:].tolist(), logits


@torch.inference_mode()
def _logits(trained: Trained, inputs: dict[str, Any]) -> Tensor:
    """Return the model's logits of one row, on the CPU."""
    logits: Tensor = trained.model(**inputs).logits[0].float().cpu()
    return logits


def _ids(trained: Trained, row: Sequence[int]) -> Tensor:
    return torch.tensor([list(row)], device=trained.model.device)


def scale(logits: Tensor) -> float:
    """Return what differences count in parts of."""
    return max(1.0, float(logits.abs().max()))


def _log(probability: float) -> float:
    return float(torch.tensor(probability).log())


def some(compared: Compared) -> Compared:
    """Return what was compared. Raises PublishingError where that is nothing."""
    if not compared.num_rows:
        raise PublishingError("there is no text that is short enough to compare the engine by")
    return compared
