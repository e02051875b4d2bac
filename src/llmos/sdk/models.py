"""A model as Python sees it: what `llmos.load_model` returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

from llmos.errors import InvalidRequestError
from llmos.types import Chunk, ToolCallDelta, Usage

if TYPE_CHECKING:
    from llmos.sdk.client import Client
    from llmos.sdk.word_vectors import Vectors


class Model:
    """One version of a model on a server, pinned when it was loaded.

    Every method asks the server; the weights live there and are loaded at the first use.
    """

    def __init__(self, client: Client, info: dict[str, Any]) -> None:
        self.client = client
        self.info = info
        """The version: ref, task, engine, parameters, manifest, files, …"""

    @property
    def ref(self) -> str:
        """The exact version, ``name:number``."""
        return str(self.info["ref"])

    def __repr__(self) -> str:
        return f"Model({self.ref!r})"

    @overload
    def generate(self, prompt: str, stream: Literal[False] = False, **sampling: Any) -> str: ...
    @overload
    def generate(self, prompt: str, stream: Literal[True], **sampling: Any) -> Iterator[Chunk]: ...
    def generate(self, prompt: str, stream: bool = False, **sampling: Any) -> str | Iterator[Chunk]:
        """Continue a text; with ``stream`` yield chunks whose ``text`` is the next piece.

        ``sampling``: temperature, top_p, top_k, max_tokens, seed, stop, … (see Client.generate).
        """
        _one_choice(sampling)
        if stream:
            return _chunks(self.client.generate(self.ref, prompt, stream=True, **sampling))
        return str(self.client.generate(self.ref, prompt, **sampling)["text"])

    @overload
    def chat(
        self, messages: Sequence[dict[str, Any]], stream: Literal[False] = False, **sampling: Any
    ) -> str: ...
    @overload
    def chat(
        self, messages: Sequence[dict[str, Any]], stream: Literal[True], **sampling: Any
    ) -> Iterator[Chunk]: ...
    def chat(
        self, messages: Sequence[dict[str, Any]], stream: bool = False, **sampling: Any
    ) -> str | Iterator[Chunk]:
        """Answer a conversation of ``{"role", "content"}`` turns; as ``generate`` otherwise.

        The text alone is returned; chunks also have ``reasoning`` and ``tool_calls``, and
        ``client.chat`` returns all of an answer.
        """
        _one_choice(sampling)
        if stream:
            return _chunks(self.client.chat(self.ref, messages, stream=True, **sampling))
        return str(self.client.chat(self.ref, messages, **sampling)["text"])

    def translate(self, text: str, *, source_lang: str, target_lang: str, **options: Any) -> str:
        """Return the text in ``target_lang``; languages are codes such as "en" and "zh"."""
        done = self.client.translate(text, source_lang, target_lang, self.ref, **options)
        return str(done["text"])

    def classify(
        self, text: str, labels: Sequence[str] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Return ``{"label", "score", "scores": {label: score}}``; with ``labels`` of those, by a
        model that embeds or writes (see Client.classify)."""
        done = self.client.classify(text, self.ref, labels, **options)
        return {name: done[name] for name in ("label", "score", "scores")}

    def entities(self, text: str) -> list[dict[str, Any]]:
        """Return ``{"text", "label", "start", "end", "score"}`` of each name, in characters."""
        return list(self.client.entities(text, self.ref)["entities"])

    def fill_mask(self, text: str, **options: Any) -> list[list[dict[str, Any]]]:
        """Return ``{"token", "score", "text"}`` of the likeliest tokens of each ``[MASK]``."""
        return list(self.client.fill_mask(text, self.ref, **options)["masks"])

    def answer(self, question: str, context: str) -> dict[str, Any]:
        """Return ``{"text", "start", "end", "score"}`` of the answer in a context."""
        done = self.client.answer(question, context, self.ref)
        return {name: done[name] for name in ("text", "start", "end", "score")}

    def rate(self, text: str) -> float:
        """Return the number that the model gives a text."""
        return float(self.client.rate(text, self.ref)["score"])

    def parse(self, text: str | Sequence[str]) -> list[list[dict[str, Any]]]:
        """Return the words of each sentence of a text, or of one that is given as its words, each
        ``{"id", "text", "upos", "head", "deprel", "score", "start", "end"}``."""
        found = self.client.parse(text, self.ref)["sentences"]
        return [list(sentence["words"]) for sentence in found]

    def embed(self, texts: Sequence[str | Sequence[int]], **options: Any) -> list[list[float]]:
        """Return the vector of each text (see Client.embed)."""
        return self.client.embed(texts, self.ref, **options)

    def similar(self, word: str, n: int = 10) -> list[dict[str, Any]]:
        """Return the words nearest to a word, ``{"word", "score"}`` each (word vectors)."""
        return self.vectors.similar(word, n)

    def analogy(self, a: str, b: str, c: str, n: int = 10) -> list[dict[str, Any]]:
        """Return the words that are to ``c`` what ``b`` is to ``a`` (word vectors)."""
        return self.vectors.analogy(a, b, c, n)

    @cached_property
    def vectors(self) -> Vectors:
        """The table of a model of word vectors, fetched at its first use.

        Raises:
            InvalidRequestError: the model is none.
        """
        from llmos.sdk.word_vectors import load

        return load(self.client, self.info)

    def rerank(self, query: str, documents: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        """Return ``{"index", "relevance_score", "document"}`` of each document, the best first."""
        return self.client.rerank(query, documents, self.ref, **options)

    def encode(self, text: str) -> bytes:
        """Return a text's code; of an autoencoder or a vae."""
        return self.client.encode(text, self.ref)

    def decode(self, code: bytes, **sampling: Any) -> str:
        """Return the text that a code stands for; of an autoencoder or a vae."""
        return self.client.decode(code, self.ref, **sampling)

    def reconstruct(self, text: str) -> str:
        """Return what is left of a text that goes through its code."""
        return self.client.reconstruct(text, self.ref)

    def interpolate(self, first: str, last: str, steps: int = 5) -> list[str]:
        """Return texts of codes evenly spaced between those of two texts, both included."""
        return self.client.interpolate(first, last, steps, self.ref)

    def tokenize(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""
        return self.client.tokenize(text, self.ref, special_tokens=special_tokens)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids."""
        return self.client.detokenize(tokens, self.ref)


def _one_choice(sampling: dict[str, Any]) -> None:
    if sampling.get("n", 1) != 1:
        raise InvalidRequestError(
            "A Model returns one answer: use Client.generate or Client.chat for n > 1.", param="n"
        )


def _chunks(events: Iterator[dict[str, Any]]) -> Iterator[Chunk]:
    for event in events:
        usage = event.get("usage")
        yield Chunk(
            index=int(event.get("index", 0)),
            text=str(event.get("text", "")),
            reasoning=str(event.get("reasoning", "")),
            tool_calls=tuple(ToolCallDelta(**call) for call in event.get("tool_calls", ())),
            finish_reason=event.get("finish_reason"),
            usage=usage and Usage(**usage),
        )
