"""The part of the client for networks with a bottleneck: texts to codes, codes to texts.

Such a model goes on from a text with its code and the text that this stands for, so all of it is
made of ``generate``.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from llmos.errors import InvalidRequestError
from llmos.sdk.transport import Json, Transport

MAX_ANSWER_TOKENS = 2**20
"""More than any such model has room for: it goes on to the end of its text."""


class Coding:
    """Encodes and decodes with models of the server behind ``transport``."""

    transport: Transport

    def encode(self, text: str, model: str) -> bytes:
        """Return a text's code, one byte for each number of the model's vector.

        Raises:
            InvalidRequestError: the model has no codes, or the text does not fit it.
        """
        sizes = self._code_sizes(model)
        size = sizes["latent_size"]
        body = {"model": model, "prompt": text, "max_tokens": 1 + size, "temperature": 0}
        done = self.transport.json("POST", "/api/v1/generate", json={**body, "logprobs": 0})
        tokens = [one["token"] for one in done["choices"][0]["logprobs"]]
        levels = [token.strip("<|>") for token in tokens[1:]]
        if len(levels) != size or not all(level.isdecimal() for level in levels):
            raise InvalidRequestError("the text has no room for its code: shorten it", param="text")
        return bytes(int(level) for level in levels)

    def decode(self, code: bytes, model: str, **sampling: Any) -> str:
        """Return the text that a code stands for, the likeliest unless ``sampling``, as of
        ``generate``, says another temperature.

        Raises:
            InvalidRequestError: the model has no codes, or those of another length.
        """
        sizes = self._code_sizes(model)
        if len(code) != sizes["latent_size"]:
            raise InvalidRequestError(
                f"a code of {model} has {sizes['latent_size']} bytes, not {len(code)}", param="code"
            )
        prompt = [sizes["first_level_id"] + level for level in code]
        wanted = {"max_tokens": MAX_ANSWER_TOKENS, "temperature": 0, **sampling}
        body = {"model": model, "prompt": prompt, **wanted}
        return str(self.transport.json("POST", "/api/v1/generate", json=body)["text"])

    def reconstruct(self, text: str, model: str) -> str:
        """Return what is left of a text that goes through its code."""
        return self.decode(self.encode(text, model), model)

    def interpolate(self, first: str, last: str, steps: int, model: str) -> list[str]:
        """Return ``steps`` texts, of codes evenly spaced from that of one text to that of another,
        both included.

        Raises:
            InvalidRequestError: fewer than two steps, or as ``encode``.
        """
        if steps < 2:
            raise InvalidRequestError("steps must be 2 or more: both ends are steps", param="steps")
        pairs = list(zip(self.encode(first, model), self.encode(last, model), strict=True))
        shares = [step / (steps - 1) for step in range(steps)]
        codes = [bytes(round(a + share * (b - a)) for a, b in pairs) for share in shares]
        return [self.decode(code, model) for code in codes]

    def _code_sizes(self, model: str) -> Json:
        path = f"/api/v1/models/{quote(model, safe='/:@')}/files/config.json"
        config = self.transport.json("GET", path)
        if "first_level_id" not in config:
            raise InvalidRequestError(
                f"{model} has no codes: it must be an autoencoder or a vae", param="model"
            )
        return config
