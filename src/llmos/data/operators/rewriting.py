"""New records whose text a model of the library has written: translated there and back, or said in
other words.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self, TypeVar

from pydantic import Field, model_validator

from llmos.data.operators.chance import number_of
from llmos.data.operators.copies import (
    NOTHING_NEW,
    AugmentOptions,
    Made,
    add_copies,
    check_no_spans,
    check_places,
    is_copy,
)
from llmos.data.operators.prompts import CHAT, chat, filled, names_in, said
from llmos.data.pipeline.operator import Batcher, Options, TextOptions
from llmos.data.pipeline.options import ChatModel, Translator
from llmos.data.pipeline.record import Record
from llmos.errors import DataError

CUT_OFF = "cut off: the answer reached max_tokens"
PARAPHRASE = (
    "Say the text below in other words, in the same language. Keep its meaning and its tone, and "
    "answer with the new text alone.\n\n{text}"
)
Rewritten = tuple[str, str | None]
"""A text, and why it is dropped, or None."""
R_co = TypeVar("R_co", bound=TextOptions, covariant=True)


class Rewriter(Batcher[R_co]):
    """Yields each record, and behind it new ones whose text a model has written."""

    group = "augment"
    adds = ()
    options_type: ClassVar[type[Options]] = TextOptions

    def batch(self, records: list[Record]) -> list[Record]:
        """Return records, each with new ones behind it.

        Raises:
            LlmosError: the model refuses a text.
            DataError: a record has no text, or spans in it.
        """
        fresh = [record for record in records if not is_copy(record)]
        texts = [self._text(record) for record in fresh]
        rewritten = zip(texts, self.rewritten(fresh, texts), strict=True)
        out: list[Record] = []
        for record in records:
            new = [] if is_copy(record) else self._made(record, *next(rewritten))
            out += add_copies(record, self.name, new)
        return out

    @abstractmethod
    def rewritten(self, records: list[Record], texts: list[str]) -> list[list[Rewritten]]:
        """Return the new texts of each record, given those that they have."""

    def _text(self, record: Record) -> str:
        name = self.options.field
        check_places(record, name)
        check_no_spans(record)
        text = record.text(name)
        if not isinstance(record.fields[name], str):
            raise DataError(f"{name!r} must be one text: messages are not written anew")
        return text

    def _made(self, record: Record, before: str, new: list[Rewritten]) -> list[Made]:
        seen = {before.strip(), ""}
        made = []
        for text, reason in new:
            why = reason or (NOTHING_NEW if text.strip() in seen else None)
            made.append(Made(record.fields | {self.options.field: text}, why))
            seen.add(text.strip())
        return made


class TranslateOptions(TextOptions):
    model: Translator = Field(description="translates there")
    back: Translator | None = Field(default=None, description="translates back; `model` by default")
    language: str = Field(min_length=2, max_length=32, description="of the texts, as en or zh")
    pivot: str = Field(min_length=2, max_length=32, description="the language in between")


class BackTranslate(Rewriter[TranslateOptions]):
    """Adds a copy that was translated into another language and back.

    >>> back = BackTranslate(model="en-zh", back="zh-en", language="en", pivot="zh")
    >>> answers = {"It is big.": "很大。", "很大。": "It is large."}
    >>> back.ask = lambda path, bodies: [{"text": answers[body["text"]]} for body in bodies]
    >>> tried(back, "It is big.")
    ['It is big.', 'It is large.']
    """

    name = "back_translate"
    options_type = TranslateOptions

    def rewritten(self, records: list[Record], texts: list[str]) -> list[list[Rewritten]]:
        """Return what comes back of each text (Sennrich et al. 2016, arXiv:1511.06709)."""
        options = self.options
        there = self._translated(texts, options.model, options.language, options.pivot)
        model = options.back or options.model
        back = self._translated(there, model, options.pivot, options.language)
        return [[(text, None)] for text in back]

    def _translated(self, texts: list[str], model: str, source: str, target: str) -> list[str]:
        """Return translations; of what is empty, nothing."""
        pair = {"source_lang": source, "target_lang": target}
        bodies = [{"model": model, "text": text, **pair} for text in texts if text.strip()]
        answers = iter(self.ask("/api/v1/translate", bodies))
        return [str(next(answers)["text"]) if text.strip() else "" for text in texts]


class ParaphraseOptions(AugmentOptions):
    model: ChatModel = Field(description="a chat model")
    template: str = Field(
        default=PARAPHRASE, max_length=20_000, description="what it is asked, with {text}"
    )
    temperature: float = Field(default=0.8, ge=0, le=2, description="0: all copies are the same")
    max_tokens: int = Field(default=512, ge=1, description="longer answers are dropped")

    @model_validator(mode="after")
    def _has_the_text(self) -> Self:
        if names_in(self.template) != ["text"]:
            raise ValueError("template needs {text} in it, once, and no other name")
        return self


class Paraphrase(Rewriter[ParaphraseOptions]):
    """Adds copies that a chat model says in other words.

    >>> paraphrase = Paraphrase(model="chat")
    >>> paraphrase.ask = lambda path, bodies: [
    ...     {"choices": [{"message": {"content": "Too long!"}, "finish_reason": "stop"}]}
    ...     for body in bodies
    ... ]
    >>> tried(paraphrase, "It never ends.")
    ['It never ends.', 'Too long!']
    """

    name = "paraphrase"
    options_type = ParaphraseOptions

    def rewritten(self, records: list[Record], texts: list[str]) -> list[list[Rewritten]]:
        """Return as many texts of each as there are copies."""
        options = self.options
        bodies = [
            chat(
                options.model,
                filled(options.template, {"text": text}),
                number_of(self.seed, self.name, record.id, number),
                temperature=options.temperature,
                max_tokens=options.max_tokens,
            )
            for record, text in zip(records, texts, strict=True)
            for number in range(options.copies)
        ]
        found = [said(answer)[0] for answer in self.ask(CHAT, bodies)]
        new = [(one.text, None if one.is_whole else CUT_OFF) for one in found]
        size = options.copies
        return [new[start : start + size] for start in range(0, len(new), size)]
