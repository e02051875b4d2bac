"""A conversation to the token ids that a chat model continues."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.errors import InvalidRequestError
from llmos.tasks.context import Served, TaskContext
from llmos.types import Message

CHAT_TASKS = frozenset({"chat", "generate"})
"""Any decoder may be asked; one without a template says so when it renders."""


async def chat_ids(
    context: TaskContext, served: Served, messages: Sequence[Message]
) -> tuple[int, ...]:
    """Return the prompt of the next assistant turn.

    Raises:
        InvalidRequestError: there are no messages, or the model's template refuses them.
        UnsupportedTaskError: the model has no chat template.
    """
    if not messages:
        raise InvalidRequestError("messages is empty: give at least one.", param="messages")
    special = {f"{name}_token": token for name, token in served.manifest.special_tokens.items()}
    text = await context.templates.render(served.manifest.chat_template, messages, special)
    encoded = await served.tokenizer.encode(text, special_tokens=False)
    return encoded.ids
