"""How a vector is written in tokens: a level of each of its numbers, a byte each. Torch-free.

A network with a bottleneck reads a text, tells its code, and writes the text that a code stands
for. Code and text are tokens of one vocabulary, so all of that is going on from a prompt.
"""

from __future__ import annotations

LEVELS = 256
CODE_TOKEN = "<|code|>"  # noqa: S105 - no secret
"""Ends the text that is read."""
LEVEL_TOKENS = tuple(f"<|{level}|>" for level in range(LEVELS))
CODE_TOKENS = (CODE_TOKEN, *LEVEL_TOKENS)
"""Of a tokenizer: one after the other."""
ARCHITECTURES = {"autoencoder": "autoencoder", "elbo": "vae", "dependency_parsing": "biaffine"}
"""By a recipe's objective: what is trained by it, and by no other."""
