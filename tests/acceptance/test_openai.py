"""The unmodified `openai` client against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from harness import Llmos

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
HELLO: list[Any] = [{"role": "user", "content": "Hello, who are you?"}]


@pytest.fixture(scope="module")
def client(llmos: Llmos) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{llmos.url}/v1", api_key=llmos.key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def chat_model(starter_models: tuple[str, ...]) -> str:
    return "starter-chat"


def test_models_are_listed_and_retrieved(client: openai.OpenAI, my_model: str) -> None:
    listed = {model.id for model in client.models.list()}
    assert my_model in {name.partition(":")[0] for name in listed}
    assert client.models.retrieve(my_model).object == "model"


def test_a_chat_is_answered(client: openai.OpenAI, chat_model: str) -> None:
    answer = client.chat.completions.create(model=chat_model, messages=HELLO, **GREEDY)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat_has_the_same_text_and_ends_with_usage(
    client: openai.OpenAI, chat_model: str
) -> None:
    whole = client.chat.completions.create(model=chat_model, messages=HELLO, **GREEDY)
    chunks = list(
        client.chat.completions.create(
            model=chat_model,
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True},
            **GREEDY,
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 3
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")


def test_n_choices_differ_and_repeat_with_the_seed(client: openai.OpenAI, my_model: str) -> None:
    def texts(seed: int) -> list[str]:
        answer = client.completions.create(
            model=my_model, prompt="ROMEO:", n=3, seed=seed, temperature=1, max_tokens=24
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.text for choice in answer.choices]

    first = texts(5)
    assert len(set(first)) == 3
    assert texts(5) == first
    assert texts(6) != first


def test_stop_strings_end_the_text_before_them(client: openai.OpenAI, my_model: str) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 60, "seed": 1}
    free = client.completions.create(model=my_model, prompt="ROMEO:", **options).choices[0].text
    word = free[10:13]
    choice = client.completions.create(
        model=my_model, prompt="ROMEO:", stop=[word], **options
    ).choices[0]
    assert choice.text == free[: free.index(word)]
    assert choice.finish_reason == "stop"


def test_chat_logprobs_are_of_each_token(client: openai.OpenAI, chat_model: str) -> None:
    answer = client.chat.completions.create(
        model=chat_model, messages=HELLO, logprobs=True, top_logprobs=3, **GREEDY
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    for token in logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-4)
    text = b"".join(bytes(token.bytes or ()) for token in logprobs.content).decode()
    assert (answer.choices[0].message.content or "") in text


def test_completions_give_logprobs_and_echo(client: openai.OpenAI, my_model: str) -> None:
    options: dict[str, Any] = {"model": my_model, "prompt": "ROMEO:", **GREEDY}
    plain = client.completions.create(**options).choices[0].text
    assert client.completions.create(echo=True, **options).choices[0].text == "ROMEO:" + plain
    logprobs = client.completions.create(logprobs=2, **options).choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == plain
    assert all(len(top) >= 2 for top in logprobs.top_logprobs or ())


def test_completions_stream(client: openai.OpenAI, my_model: str) -> None:
    options: dict[str, Any] = {"model": my_model, "prompt": "ROMEO:", **GREEDY}
    whole = client.completions.create(**options).choices[0].text
    pieces = client.completions.create(stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in pieces if chunk.choices) == whole


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"model": "no-such-model"}, openai.NotFoundError, "no-such-model"),
        ({"max_tokens": -1}, openai.BadRequestError, "max_tokens"),
        ({"temperature": "hot"}, openai.BadRequestError, "temperature"),
        ({"prompt": "O" * 100_000}, openai.BadRequestError, "context"),
        ({"n": 10**6}, openai.BadRequestError, "n"),
    ],
)
def test_a_mistake_is_an_openai_error(
    client: openai.OpenAI, my_model: str, change: Any, error: type[openai.APIError], says: str
) -> None:
    options: dict[str, Any] = {"model": my_model, "prompt": "ROMEO:", "max_tokens": 4} | change
    with pytest.raises(error) as caught:
        client.completions.create(**options)
    body: Any = caught.value.body
    assert says in body["message"]
    assert {"message", "type", "code", "param"} <= set(body)


def test_a_wrong_key_is_refused(llmos: Llmos) -> None:
    with (
        openai.OpenAI(base_url=f"{llmos.url}/v1", api_key="sk-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()
