"""How much of texts a served network with a bottleneck keeps: what comes back of a text that goes
through its code, and of a variational one the evidence lower bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmos.data.record import Document
from llmos.errors import DataError
from llmos.evaluation import metrics
from llmos.evaluation.asking import Ask, ask_all, read
from llmos.evaluation.served import scoring

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

MOST_TOKENS = 2**20
"""More than any such network writes: it goes on to the end of its text."""
PLAIN = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "logprobs": 0}
"""Nothing changes the network's own probabilities."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What of a network's config says how codes are written."""

    latent_size: int
    max_text_tokens: int
    code_token_id: int
    first_level_id: int
    end_id: int
    is_variational: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> Sizes:
        """Return those of a config.json."""
        end = config.get("eos_token_id") or 0
        return cls(
            config["latent_size"],
            config["max_text_tokens"],
            config["code_token_id"],
            config["first_level_id"],
            int(end[0] if isinstance(end, list) else end),
            config["model_type"] == "vae",
        )


def reconstruction(context: JobContext, model: str, records: Sequence[Document]) -> dict[str, Any]:
    """What is kept of texts no longer than the network's longest; others are left out.

    Returns:
        ``exact``: the share that comes back as it was; ``character_error``: edits for each
        character; ``token_accuracy``: of the tokens of a text, its end too, those that are
        likeliest after its code and the tokens before; ``code_bytes`` of a text, ``text_bytes``,
        its mean length, and how many ``texts``. Of a variational network also ``elbo`` and ``kl``,
        nats a text, of one code drawn for each.
    """
    sizes = Sizes.of(read(context, f"/api/v1/models/{model}/files/config.json"))
    tokenising = [
        Ask("/tokenize", {"model": model, "text": one.text, "add_special_tokens": False})
        for one in records
    ]
    encoded = [answer["tokens"] for answer in ask_all(context, tokenising, "tokenising")]
    kept = [i for i, ids in enumerate(encoded) if 0 < len(ids) <= sizes.max_text_tokens]
    if not kept:
        raise DataError(f"no text has 1 to {sizes.max_text_tokens} tokens, which the network takes")
    if len(kept) < len(records):
        context.log(f"left out {len(records) - len(kept)} texts, of other lengths than it takes")
    texts, rows = [records[i].text for i in kept], [encoded[i] for i in kept]
    found = _written_again(context, model, texts, rows, sizes)
    return found | (_bound(context, model, rows, sizes) if sizes.is_variational else {})


def _written_again(
    context: JobContext,
    model: str,
    texts: Sequence[str],
    rows: Sequence[list[int]],
    sizes: Sizes,
) -> dict[str, Any]:
    asks = [_writing(model, ids, MOST_TOKENS, 0.0, 0) for ids in rows]
    written, codes = [], []
    for answer in ask_all(context, asks, "writing texts again"):
        (choice,) = answer["choices"]
        written.append(choice["text"])
        codes.append([one["token"] for one in choice["logprobs"][1 : 1 + sizes.latent_size]])
    right = total = 0
    asks = [_decoding(model, code, ids, sizes) for code, ids in zip(codes, rows, strict=True)]
    for ids, answer in zip(rows, ask_all(context, asks, "scoring texts"), strict=True):
        told = answer["choices"][0]["logprobs"]
        places = range(1 + sizes.latent_size, len(told["tokens"]))
        likeliest = (max(told["top_logprobs"][place].values()) for place in places)
        right += sum(
            told["token_logprobs"][place] >= best
            for place, best in zip(places, likeliest, strict=True)
        )
        total += len(ids) + 1
    return {
        "exact": metrics.accuracy(written, texts),
        "character_error": metrics.edit_rate(written, texts),
        "token_accuracy": right / total,
        "code_bytes": sizes.latent_size,
        "text_bytes": sum(len(text.encode()) for text in texts) / len(texts),
        "texts": len(texts),
    }


def _bound(
    context: JobContext, model: str, rows: Sequence[list[int]], sizes: Sizes
) -> dict[str, float]:
    """Return the bound and KL, a text: of a code z drawn from q(z|x), log p(x|z) + log p(z) -
    log q(z|x), and the last two (Kingma and Welling, arXiv:1312.6114, equations 2 and 3). What is
    drawn are levels, so q and p are those of levels."""
    asks = [_writing(model, ids, 1 + sizes.latent_size, 1.0, seed) for seed, ids in enumerate(rows)]
    posterior, codes = 0.0, []
    for answer in ask_all(context, asks, "drawing codes"):
        levels = answer["choices"][0]["logprobs"][1:]
        posterior += math.fsum(one["logprob"] for one in levels)
        codes.append([one["token"] for one in levels])
    prior = likelihood = 0.0
    asks = [_decoding(model, code, ids, sizes) for code, ids in zip(codes, rows, strict=True)]
    for answer in ask_all(context, asks, "scoring codes"):
        logprobs = answer["choices"][0]["logprobs"]["token_logprobs"]
        prior += math.fsum(logprobs[1 : 1 + sizes.latent_size])
        likelihood += math.fsum(logprobs[1 + sizes.latent_size :])
    kl = (posterior - prior) / len(rows)
    return {"elbo": likelihood / len(rows) - kl, "kl": kl}


def _writing(model: str, ids: Sequence[int], most: int, temperature: float, seed: int) -> Ask:
    """Ask for a text's code, and the text again as far as ``most`` tokens go."""
    body = {"model": model, "prompt": list(ids), "max_tokens": most, "seed": seed}
    return Ask("/api/v1/generate", {**body, **PLAIN, "temperature": temperature})


def _decoding(model: str, code: Sequence[str], ids: Sequence[int], sizes: Sizes) -> Ask:
    """Ask how likely a code is, and a text after it."""
    levels = [sizes.first_level_id + int(token.strip("<|>")) for token in code]
    return scoring(model, [sizes.code_token_id, *levels, *ids, sizes.end_id], logprobs=1)
