"""What was asked, to the token ids that the model continues.

Whatever cannot fit the context is refused before it costs anything: a long text is counted only as
far as it takes to know.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from llmos.errors import ContextLengthError, InvalidRequestError
from llmos.tasks.chat import chat_prompt, check_answerable, check_messages, check_tools
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.forgery import ChatText
from llmos.tasks.reasoning import ReasoningFormat, reasoning_format
from llmos.tasks.tools import takes_tools
from llmos.types import GenerateRequest, Message, ToolUse


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


def check_queue(context: TaskContext, requests: Sequence[GenerateRequest]) -> None:
    """Refuse what asks for more answers than there may ever be under way: waiting does not help.

    Raises:
        InvalidRequestError: it names ``n``, or ``prompt`` where several prompts are too many.
    """
    most = context.settings.max_queue
    most_of_one = max(request.n for request in requests)
    num_answers = sum(request.n for request in requests)
    if num_answers > most:
        param = "n" if most_of_one > most else "prompt"
        raise InvalidRequestError(
            f"{param} asks for {most_of_one if param == 'n' else num_answers} answers at once, but "
            f"this server's max_queue is {most}: ask for fewer.",
            param=param,
        )


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
    most_tokens = served.context_tokens - (not shows_prompt_alone(request))
    if isinstance(prompt, str):
        await _check_fits(served, prompt, param, most_tokens)
        bos = served.tokenizer.token_id(served.manifest.special_tokens.get("bos", ""))
        ids = await served.tokenizer.ids(prompt) or ((bos,) if bos is not None else ())
    elif is_chat(request):
        param = "messages"
        chat = await _chat_text(context, served, request, most_tokens)
        named = served.version.manifest.get("reasoning_format")
        reasoning = reasoning_format(served.manifest.chat_template or "", named)
        is_open = reasoning is not None and reasoning.is_open(chat.text)
        if reasoning is not None and is_open and is_constrained:
            text, is_open = chat.text + reasoning.closing(chat.text), False
            chat = dataclasses.replace(chat, text=text)
        await _check_fits(served, chat.shown(), param, most_tokens)
        ids = await chat.ids(served.tokenizer)
    else:
        ids = tuple(i for i in prompt if isinstance(i, int))
        _check_ids(ids, served)
    if not ids:
        raise InvalidRequestError(
            "The prompt is empty, and this model has no token to begin a text with: give it some.",
            param=param,
        )
    if len(ids) > most_tokens:
        raise _too_long(served, str(len(ids)), param)
    return Prompt(ids, reasoning, is_open)


def shows_prompt_alone(request: GenerateRequest) -> bool:
    """Whether nothing is to follow the prompt, which may fill the context then."""
    return request.echo and not request.sampling.max_tokens


async def _chat_text(
    context: TaskContext, served: Served, request: GenerateRequest, most_tokens: int
) -> ChatText:
    messages = [turn for turn in request.prompt if isinstance(turn, Message)]
    check_messages(messages)
    check_answerable(messages)
    check_tools(served, request.tool_use)
    # templates may leave out what an assistant said, but nothing else
    said = "\n".join(turn.content for turn in messages if turn.role != "assistant")
    await _check_fits(served, said, "messages", most_tokens)
    if request.tool_use.choice != "none" and takes_tools(served.manifest.chat_template or ""):
        await _check_fits(served, _tools_text(request.tool_use), "tools", most_tokens)
    options, owner = request.template_options, request.owner
    return await chat_prompt(context, served, messages, request.tool_use, options, owner)


def _tools_text(tool_use: ToolUse) -> str:
    """Return what a template that knows of tools tells at least of them."""
    return "\n".join(
        f"{tool.description} {json.dumps(tool.parameters, ensure_ascii=False)}"
        for tool in tool_use.tools
    )


async def _check_fits(served: Served, text: str, param: str, most_tokens: int) -> None:
    least = await served.tokenizer.least_tokens(text, served.context_tokens)
    if least > most_tokens:
        raise _too_long(served, f"at least {least}", param)


def _too_long(served: Served, number: str, param: str) -> ContextLengthError:
    what = "tools" if param == "tools" else "prompt"
    have = "have" if param == "tools" else "has"
    return ContextLengthError(
        f"The {what} {have} {number} tokens, but the context of {served.ref} holds "
        f"{served.context_tokens}, the answer included: shorten the {what}.",
        param=param,
    )


def _check_ids(ids: Sequence[int], served: Served) -> None:
    size = served.manifest.vocab_size or served.tokenizer.vocab_size
    if wrong := next((i for i in ids if not 0 <= i < size), None):
        raise InvalidRequestError(
            f"The prompt has the token id {wrong}, but {served.ref} has ids from 0 to {size - 1}.",
            param="prompt",
        )
