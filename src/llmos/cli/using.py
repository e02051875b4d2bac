"""What commands say of a new model: how to look at it, and how to use it."""

from __future__ import annotations

import typer

_COMMANDS = {
    "translate": 'translate "Hello" --model {ref}',
    "classify": 'classify "I like it." --model {ref}',
    "entities": 'entities "Alice is in Paris." --model {ref}',
    "embed": 'embed "Hello" --model {ref}',
    "rerank": 'rerank "Where is Paris?" "In France." "A city." --model {ref}',
    "fill_mask": 'fill-mask "I like [MASK]." --model {ref}',
    "answer": 'answer "Who sings?" "Alice sings." --model {ref}',
    "rate": 'rate "I like it." --model {ref}',
    "parse": 'parse "Alice sings." --model {ref}',
    "word_vectors": "vectors similar {ref} WORD",
}
"""How to use a model, by its task; `llmos run` for the others."""


def say_ready(ref: str, task: str | None) -> None:
    """Say that there is a model now, and what to do with it."""
    command = _COMMANDS.get(task or "", "run {ref}").format(ref=ref)
    typer.echo(f"{ref} is ready: `llmos show {ref}`, `llmos {command}`")
