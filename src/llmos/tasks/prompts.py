"""What was asked, to the token ids that the model continues.

Whatever cannot fit the context is refused before it costs anything: a long text is counted only as
far as it takes to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmos.errors import ContextLengthError, InvalidRequestError
from llmos.tasks.chat import chat_prompt, check_messages, check_tools
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.reasoning import ReasoningFormat, reasoning_format
from llmos.types import GenerateRequest, Message


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens before the answer, and whether they begin a reasoning block."""

    ids: tuple[int, ...]
    reasoning: ReasoningFormat | None = None
    """The model's own, None for plain completions."""
    is_reasoning_open: bool = False


def is_chat(request: GenerateRequest) -> bool:
    """Whether a request is a conversation, not a text or tokens to go on from."""
    return bool(request.prompt) and isinstance(request.prompt[0], Message)


async def prompt_of(
    context: TaskContext, served: Served, request: GenerateRequest, *, is_constrained: bool
) -> Prompt:
    """Return the prompt of a request.

    Args:
        is_constrained: the answer must match a grammar from its first token on, so it cannot be in
            a reasoning block: one that the template opened is closed again.

    Raises:
        ContextLengthError: the prompt leaves no room in the model's context.
        InvalidRequestError: the prompt is empty or has ids outside the vocabulary, or its turns do
            not follow from each other.
    """
    param, prompt = "prompt", request.prompt
    reasoning, is_open = None, False
    if isinstance(prompt, str):
        await _check_fits(served, prompt, param)
        bos = served.tokenizer.token_id(served.manifest.special_tokens.get("bos", ""))
        ids = await served.tokenizer.ids(prompt) or ((bos,) if bos is not None else ())
    elif is_chat(request):
        param = "messages"
        text = await _chat_text(context, served, request)
        named = served.version.manifest.get("reasoning_format")
        reasoning = reasoning_format(served.manifest.chat_template or "", named)
        is_open = reasoning is not None and reasoning.is_open(text)
        if reasoning is not None and is_open and is_constrained:
            text, is_open = text + reasoning.closing(text), False
        await _check_fits(served, text, param)
        ids = await served.tokenizer.ids(text, special_tokens=False)
    else:
        ids = tuple(i for i in prompt if isinstance(i, int))
        _check_ids(ids, served)
    if not ids:
        raise InvalidRequestError(
            "The prompt is empty, and this model has no token to begin a text with: give it some.",
            param=param,
        )
    if len(ids) >= served.context_tokens:
        raise _too_long(served, str(len(ids)), param)
    return Prompt(ids, reasoning, is_open)


async def _chat_text(context: TaskContext, served: Served, request: GenerateRequest) -> str:
    messages = [turn for turn in request.prompt if isinstance(turn, Message)]
    check_messages(messages)
    check_tools(served, request.tool_use)
    # templates may leave out what an assistant said, but nothing else
    said = "\n".join(turn.content for turn in messages if turn.role != "assistant")
    await _check_fits(served, said, "messages")
    options = request.template_options
    return await chat_prompt(context, served, messages, request.tool_use, options)


async def _check_fits(served: Served, text: str, param: str) -> None:
    least = await served.tokenizer.least_tokens(text, served.context_tokens)
    if least >= served.context_tokens:
        raise _too_long(served, f"at least {least}", param)


def _too_long(served: Served, number: str, param: str) -> ContextLengthError:
    return ContextLengthError(
        f"The prompt has {number} tokens, but the context of {served.ref} holds "
        f"{served.context_tokens}, the answer included: shorten the prompt.",
        param=param,
    )


def _check_ids(ids: Sequence[int], served: Served) -> None:
    size = served.manifest.vocab_size or served.tokenizer.vocab_size
    if wrong := next((i for i in ids if not 0 <= i < size), None):
        raise InvalidRequestError(
            f"The prompt has the token id {wrong}, but {served.ref} has ids from 0 to {size - 1}.",
            param="prompt",
        )
