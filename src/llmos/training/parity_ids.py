"""Whether texts become the tokens that they were trained as, on the way that requests take."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from llmos.data.record import (
    Alike,
    Annotated,
    Conversation,
    Document,
    Labelled,
    Pair,
    Preference,
    Question,
    Rated,
    Record,
)
from llmos.data.trees import Parsed
from llmos.errors import InvalidRequestError, RecipeError
from llmos.kernel.models import ModelSpec
from llmos.library.versions import Version
from llmos.tasks.chat import chat_prompt
from llmos.tasks.context import Served
from llmos.tasks.templates import Templates
from llmos.tasks.tokenizers import TOKENIZER_FILE, Tokenizer
from llmos.tasks.translate import prefix_of
from llmos.training import conversations
from llmos.training.encoder import Encoder, chat_template, source_text
from llmos.training.publish import PublishingError
from llmos.types import Message, ToolUse

if TYPE_CHECKING:
    from llmos.training.parity import Trained

TEXTS = (
    "The river is deeper than it looks, said the ferryman.",
    "雨下了一整夜，早上的路还是湿的。",
    'Does it cost 3.50 or 4? "Four," she said; we paid.',
    "他在 2019 年搬到上海，email 是他写的。",
)
CONVERSATIONS = (
    Conversation((Message("user", TEXTS[0]), Message("assistant", TEXTS[2]))),
    Conversation(
        (
            Message("system", "Answer in one sentence."),
            Message("user", TEXTS[1]),
            Message("assistant", TEXTS[3]),
            Message("user", TEXTS[2]),
            Message("assistant", "好的。"),
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Read:
    """Texts that both sides read alike, and their tokens as prompts for the engine."""

    num_texts: int
    num_tokens: int
    rows: list[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Rendering:
    """What a chat's prompt is made with."""

    templates: Templates


def check(trained: Trained) -> Read:
    """Return how many fixed texts and samples were compared.

    Raises:
        PublishingError: serving makes other tokens of one than training did.
    """
    served = _served(trained)
    if trained.recipe.task == "chat":
        return asyncio.run(_check_chat(trained, served))
    rows = [*_compared(trained, served)]
    return Read(len(rows), sum(map(len, rows)), rows)


def _served(trained: Trained) -> Served:
    """Return the version as the server will have it."""
    manifest = msgspec.to_builtins(trained.manifest)
    name = trained.recipe.name
    version = Version(0, "model", "", name, 1, "", manifest, {}, "", 0.0, None, (), ())
    spec = ModelSpec("", trained.manifest.engine, str(trained.directory), manifest, 0, name)
    tokenizer = Tokenizer((trained.directory / TOKENIZER_FILE).read_bytes())
    return Served(version, trained.manifest, tokenizer, spec)


async def _check_chat(trained: Trained, served: Served) -> Read:
    """Compare each prompt for an answer with the tokens before that answer in training."""
    template = chat_template(trained.recipe, trained.specials)
    rendering = _Rendering(Templates())
    rows: list[tuple[int, ...]] = []
    try:
        for talk in [*CONVERSATIONS, *_talks(trained.samples, served.tokenizer)]:
            try:
                [(ids, learned)] = conversations.encode([talk], template, trained.tokenizer)
            except RecipeError:
                if talk not in CONVERSATIONS:
                    raise
                continue  # not every template has a place for each role
            for index, message in enumerate(talk.messages):
                if message.role != "assistant" or not index:
                    continue
                said = talk.messages[:index]
                try:
                    text = await chat_prompt(rendering, served, said, ToolUse(), {})
                except InvalidRequestError:
                    continue  # nobody will be served it
                prompt = await text.ids(served.tokenizer)
                _check_same(prompt, ids[: len(prompt)], said[-1].content)
                _check_border(learned, len(prompt))
                rows.append(prompt)
    finally:
        await rendering.templates.close()
    return Read(len(rows), sum(map(len, rows)), rows)


def _talks(records: Sequence[Record], tokenizer: Tokenizer) -> Iterator[Conversation]:
    """Yield the conversations of records, but for those that spell a special token: that one is
    text where a user sends it."""
    for record in records:
        talk = record
        if isinstance(talk, Preference):
            talk = Conversation((*talk.messages, talk.chosen))
        if isinstance(talk, Conversation):
            texts = [message.content for message in talk.messages]
            if not any(name in text for name in tokenizer.special_names for text in texts):
                yield talk


def _check_border(learned: Sequence[int], border: int) -> None:
    """See that what was learned begins where the engine begins to write."""
    if learned[border - 1 : border + 1] != [0, 1]:
        raise PublishingError(
            "the tokens that training learned from do not begin where serving's prompt ends: "
            "chat_template must end a prompt just as an assistant turn begins"
        )


def _compared(trained: Trained, served: Served) -> Iterator[tuple[int, ...]]:
    """Compare whole texts; yield the tokens of each."""
    encoder = Encoder(trained.recipe, trained.tokenizer, trained.specials, None)
    has_specials = trained.recipe.task != "generate"  # a stream's texts have no ends of their own
    for text, prefix, trained_text in _texts(trained, served):
        ours = encoder.tokenizer.encode(trained_text, add_special_tokens=has_specials).ids
        theirs = served.tokenizer.encode_now(prefix + text, special_tokens=has_specials).ids
        if has_specials and len(theirs) > trained.recipe.max_tokens:
            continue  # was cut for training
        _check_same(theirs, ours, text)
        yield theirs


def _texts(trained: Trained, served: Served) -> Iterator[tuple[str, str, str]]:
    """Yield texts, what serving puts before each, and what training read for it."""
    recipe = trained.recipe
    for record in [*_fixed(trained), *trained.samples]:
        match record:
            case Pair():
                prefix = ""
                if recipe.translation is not None and record.target_lang:
                    prefix = prefix_of(served, record.source_lang, record.target_lang)
                yield record.source, prefix, source_text(recipe, record)
            case Document() | Labelled() | Annotated() | Rated() | Parsed():
                yield record.text, "", record.text
            case Question():
                yield record.question, "", record.question
                yield record.context, "", record.context
            case Alike():
                yield record.anchor, "", record.anchor
                yield record.positive, "", record.positive
            case _:
                raise PublishingError(f"no text of a {type(record).__name__} can be compared")


def _fixed(trained: Trained) -> list[Record]:
    """The fixed texts, as records of the recipe's task."""
    recipe = trained.recipe
    if recipe.task != "translate":
        return [Document(text) for text in TEXTS]
    pairs = recipe.translation.pairs if recipe.translation else []
    return [
        Pair(text, "", source, target) for text in TEXTS for source, target in pairs or [["", ""]]
    ]


def _check_same(theirs: Sequence[int], ours: Sequence[int], text: str) -> None:
    if list(theirs) != list(ours):
        raise PublishingError(
            f"serving reads {text[:80]!r} as other tokens than training: {list(theirs)[:20]}, "
            f"not {list(ours)[:20]}"
        )
