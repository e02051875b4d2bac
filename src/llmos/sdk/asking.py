"""The part of the client that asks models: generate, chat, translate, classify, embed, rerank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, overload

from llmos.sdk.transport import Json, Transport
from llmos.sdk.vectors import from_base64

Messages = Sequence[dict[str, Any]]
MAX_INPUTS = 2048
"""Texts that one request to embed may hold; more are sent in several."""


class Asking:
    """Asks the models of the server behind ``transport``."""

    transport: Transport

    @overload
    def generate(
        self, model: str, prompt: str, stream: Literal[False] = False, **sampling: Any
    ) -> Json: ...
    @overload
    def generate(
        self, model: str, prompt: str, stream: Literal[True], **sampling: Any
    ) -> Iterator[Json]: ...
    def generate(
        self, model: str, prompt: str, stream: bool = False, **sampling: Any
    ) -> Json | Iterator[Json]:
        """Continue a text.

        ``sampling`` takes temperature, top_p, top_k, min_p, max_tokens, seed, stop, n, logprobs,
        presence_penalty, frequency_penalty, repetition_penalty, no_repeat_ngram_size, logit_bias,
        echo, priority, deadline_ms, and one of response_format, regex, choice and grammar. Where
        ``model`` is "auto", a task or a route, it also takes max_latency_ms, min_quality and
        max_cost, and the answer has ``route``: why this model.

        Returns:
            ``{"model", "text", "finish_reason", "choices", "usage"}``, or with ``stream`` an
            iterator of ``{"index", "text", "finish_reason", "usage", …}``; closing it stops the
            generation.
        """
        body = {"model": model, "prompt": prompt, **given(sampling)}
        return self._generated(body, stream)

    @overload
    def chat(
        self, model: str, messages: Messages, stream: Literal[False] = False, **sampling: Any
    ) -> Json: ...
    @overload
    def chat(
        self, model: str, messages: Messages, stream: Literal[True], **sampling: Any
    ) -> Iterator[Json]: ...
    def chat(
        self, model: str, messages: Messages, stream: bool = False, **sampling: Any
    ) -> Json | Iterator[Json]:
        """Answer a conversation of ``{"role", "content"}`` turns; as ``generate`` otherwise.

        ``sampling`` also takes tools, tool_choice, parallel_tool_calls and chat_template_kwargs;
        choices and pieces then have ``tool_calls``, and ``reasoning`` where the model thinks.
        """
        body = {"model": model, "messages": list(messages), **given(sampling)}
        return self._generated(body, stream)

    def _generated(self, body: Json, stream: bool) -> Json | Iterator[Json]:
        if stream:
            return self.transport.events("POST", "/api/v1/generate", json={**body, "stream": True})
        return self.transport.json("POST", "/api/v1/generate", json=body)

    def translate(
        self,
        text: str,
        source_lang: str,
        target_lang: str,
        model: str = "machine_translation",
        **options: Any,
    ) -> Json:
        """Translate; returns ``{"text", "model", "source_lang", "target_lang", "usage"}``.

        ``options`` takes num_beams, no_repeat_ngram_size, length_penalty, max_tokens, priority and
        deadline_ms.
        """
        body = {"model": model, "text": text, "source_lang": source_lang}
        body |= {"target_lang": target_lang, **given(options)}
        return self.transport.json("POST", "/api/v1/translate", json=body)

    def classify(
        self,
        text: str,
        model: str | None = None,
        labels: Sequence[str] | None = None,
        **options: Any,
    ) -> Json:
        """Label a text; returns ``{"label", "score", "scores", "model"}``.

        With ``labels`` it is one of those, by a model that embeds texts or a language model; then
        ``template``, such as "This is about {}.", says what a label stands for. Unless told the
        model is that of the task sentiment, or embeddings.

        ``options`` takes template, priority, deadline_ms and the constraints of a choice, see
        ``generate``.
        """
        named = {"model": model, "labels": None if labels is None else list(labels)}
        body = {"text": text, **given(named), **given(options)}
        return self.transport.json("POST", "/api/v1/classify", json=body)

    def entities(self, text: str, model: str = "entities", **options: Any) -> Json:
        """Find names: ``{"entities": [{"text", "label", "start", "end", "score"}], "model"}``.

        ``options`` as for ``classify``.
        """
        body = {"model": model, "text": text, **given(options)}
        return self.transport.json("POST", "/api/v1/entities", json=body)

    def fill_mask(self, text: str, model: str = "fill_mask", **options: Any) -> Json:
        """Fill each ``[MASK]`` of a text: ``{"masks": [[{"token", "score", "text"}, …], …]}``.

        ``options`` takes top_k (5: so many tokens of each) and those of ``classify``.
        """
        body = {"model": model, "text": text, **given(options)}
        return self.transport.json("POST", "/api/v1/fill_mask", json=body)

    def answer(self, question: str, context: str, model: str = "answer", **options: Any) -> Json:
        """Find an answer in a text: ``{"text", "start", "end", "score", "model"}``, in characters;
        the text is empty where there is none. ``options`` as for ``classify``.
        """
        body = {"model": model, "question": question, "context": context, **given(options)}
        return self.transport.json("POST", "/api/v1/answer", json=body)

    def rate(self, text: str, model: str = "rate", **options: Any) -> Json:
        """Give a text a number: ``{"score", "model"}``. ``options`` as for ``classify``."""
        body = {"model": model, "text": text, **given(options)}
        return self.transport.json("POST", "/api/v1/rate", json=body)

    def parse(self, text: str | Sequence[str], model: str = "parse", **options: Any) -> Json:
        """Find the trees of a text's sentences, or of one sentence, given as its words:
        ``{"sentences": [{"words": [{"id", "text", "upos", "head", "deprel", "score", "start",
        "end"}]}], "model"}``. A head is the id of a word, 0 of the root; start and end are None
        where words were given. ``options`` as for ``classify``.
        """
        asked: Json = {"text": text} if isinstance(text, str) else {"words": list(text)}
        body = {"model": model, **asked, **given(options)}
        return self.transport.json("POST", "/api/v1/parse", json=body)

    def embed(
        self, texts: Sequence[str | Sequence[int]], model: str = "embeddings", **options: Any
    ) -> list[list[float]]:
        """Return the vector of each text, or array of token ids.

        ``options`` takes dimensions, normalize, prompt_name, truncate, priority and deadline_ms.
        """
        vectors: list[list[float]] = []
        for start in range(0, len(texts), MAX_INPUTS):
            body: Json = {"model": model, "input": list(texts[start : start + MAX_INPUTS])}
            body |= {"encoding_format": "base64", **given(options)}
            done = self.transport.json("POST", "/v1/embeddings", json=body)
            vectors += [from_base64(one["embedding"]) for one in done["data"]]
        return vectors

    def rerank(
        self, query: str, documents: Sequence[str], model: str = "rerank", **options: Any
    ) -> list[Json]:
        """Order documents by how well they answer a query, the best first.

        ``options`` takes top_n, truncate, priority and deadline_ms.

        Returns:
            ``{"index", "relevance_score", "document": {"text"}}`` of each.
        """
        body = {"model": model, "query": query, "documents": list(documents), **given(options)}
        return list(self.transport.json("POST", "/v1/rerank", json=body)["results"])

    def tokenize(self, text: str, model: str, *, special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text, with those the model expects around it unless told."""
        body = {"model": model, "text": text, "add_special_tokens": special_tokens}
        return list(self.transport.json("POST", "/tokenize", json=body)["tokens"])

    def detokenize(self, tokens: Sequence[int], model: str) -> str:
        """Return the text of token ids, special ones shown."""
        body = {"model": model, "tokens": list(tokens)}
        return str(self.transport.json("POST", "/detokenize", json=body)["text"])


def given(values: Json) -> Json:
    """Return the values that are not None: what is not given is not sent."""
    return {name: value for name, value in values.items() if value is not None}
