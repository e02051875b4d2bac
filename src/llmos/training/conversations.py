"""Conversations as token ids and which of them the assistant wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from tokenizers import Tokenizer

from llmos.data.encoding import encode_texts
from llmos.data.record import Conversation
from llmos.errors import RecipeError
from llmos.tasks.template_sandbox import TemplateError, render
from llmos.types import Message

Span = tuple[int, int]
MAX_CHARS = 4 * 2**20
BATCH = 1024


class ChatTemplate:
    """A chat template, rendered just as the server renders it."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self._source = source
        self._end = special_tokens.get("eos_token", "")
        self._variables = {"tools": None, "documents": None, **special_tokens}

    def render(self, messages: tuple[Message, ...], add_generation_prompt: bool = False) -> str:
        """The text of a conversation, or of the prompt for its next answer.

        Raises:
            RecipeError: the template is not valid or refuses the conversation.
        """
        variables = {
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "add_generation_prompt": add_generation_prompt,
            **self._variables,
        }
        try:
            return render(self._source, variables, MAX_CHARS)
        except TemplateError as error:
            raise RecipeError(f"chat_template: {error}") from error

    def answers(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """The whole text and the character spans to learn: what the assistant wrote, ends of turns
        included."""
        messages = conversation.messages
        last = max(i for i, message in enumerate(messages) if message.role == "assistant")
        text = self.render(messages[: last + 1])
        spans = []
        for index, message in enumerate(messages):
            if message.role != "assistant" or index in conversation.only_read:
                continue
            prompt = self.render(messages[:index], add_generation_prompt=True)
            upto = self.render(messages[: index + 1])
            if not (upto.startswith(prompt) and text.startswith(upto)):
                raise RecipeError(
                    "chat_template must only add text as a conversation grows, and its "
                    "generation prompt must be how an assistant turn begins"
                )
            ending = upto.rfind(self._end, len(prompt))
            end = len(upto) if ending < 0 else ending + len(self._end)
            spans.append((len(prompt), end))
        return text, spans


def encode(
    conversations: Iterable[Conversation], template: ChatTemplate, tokenizer: Tokenizer
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield token ids and, per token, 1 where the loss counts.

    Raises:
        RecipeError: a token reaches across the border of an answer.
    """
    iterator = iter(conversations)
    while batch := list(islice(iterator, BATCH)):
        rendered = [template.answers(conversation) for conversation in batch]
        encoded = encode_texts(tokenizer, (text for text, _ in rendered), add_special_tokens=False)
        for encoding, (_, spans) in zip(encoded, rendered, strict=True):
            yield encoding.ids, _learned(_full_offsets(encoding.offsets), spans)


def _full_offsets(offsets: list[Span]) -> list[Span]:
    """Offsets with the spaces a byte-level tokenizer trims off given back to their tokens."""
    full, last = [], 0
    for start, end in offsets:
        full.append((min(start, last), end))
        last = max(last, end)
    return full


def _learned(offsets: list[Span], spans: list[Span]) -> list[int]:
    learned = [0] * len(offsets)
    for index, (start, end) in enumerate(offsets):
        for first, last in spans:
            if first <= start and end <= last and start < end:
                learned[index] = 1
            elif start < first < end or start < last < end:
                raise RecipeError(
                    "chat_template: a token reaches across the start or end of an answer: "
                    "end turns with one of tokenizer.special_tokens"
                )
    return learned
