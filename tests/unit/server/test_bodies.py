"""What a body may cost: every list has a bound, and a large one is read in a thread."""

from __future__ import annotations

import importlib
import json
import pkgutil
import threading
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types
import httpx
import pytest
from fastapi import FastAPI
from pydantic import PlainValidator, ValidationError, WrapValidator

import llmos.sdk
import llmos.server
import llmos.server.routes
from llmos.errors import InvalidRequestError
from llmos.sdk import wire
from llmos.sdk.wire import MAX_FIELDS, MAX_VALUES, Body, SamplingBody, check_storable
from llmos.server import bodies
from llmos.server.bodies import MAX_JSON_VALUES, SMALL_BYTES, BodyRoute, parsed
from llmos.server.openai_wire import ChatBody
from llmos.server.responses_wire import ResponseBody
from llmos.server.routes.tokenize import DetokenizeBody

MANY = 300_000
TURN = {"role": "user", "content": "hi"}


def wire_models() -> list[type[Body]]:
    for package in (llmos.sdk, llmos.server, llmos.server.routes):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found, new = set(), [Body]
    while new:
        found |= {*(new := [sub for model in new for sub in model.__subclasses__()])}
    return sorted(found, key=lambda model: f"{model.__module__}.{model.__name__}")


def unbounded(model: type[Body], name: str, kind: Any, metadata: list[Any]) -> Iterator[str]:
    """Yield what of a field's type has no end: a list without a bound that ends at its first error,
    an object whose values are checked without one."""
    origin, args = get_origin(kind), get_args(kind)
    if any(isinstance(one, PlainValidator | WrapValidator) for one in metadata):
        return  # looked at as a whole
    if origin is Annotated:
        own = [part for one in args[1:] for part in (one, *getattr(one, "metadata", ()))]
        yield from unbounded(model, name, args[0], [*metadata, *own])
    elif origin in (Union, types.UnionType):
        for one in args:
            yield from unbounded(model, name, one, metadata)
    elif kind is list or origin is list:
        limited = any(isinstance(one, annotated_types.MaxLen) for one in metadata)
        fails_fast = any(getattr(one, "fail_fast", False) for one in metadata)
        if not limited or not (fails_fast or args == (Any,)):
            yield f"{model.__name__}.{name}: {kind}"
        yield from unbounded(model, name, args[0], [])
    elif origin is dict and args[1] is not Any:
        is_json = "JsonValue" in str(args[1])  # checked in one go
        if name not in wire._limits(model) and not is_json:
            yield f"{model.__name__}.{name}: {kind}"


def test_every_list_of_every_body_has_a_bound_and_ends_at_its_first_error() -> None:
    models = wire_models()
    assert {ChatBody, ResponseBody, DetokenizeBody, SamplingBody} <= set(models)
    found = [
        fault
        for model in models
        for name, field in model.model_fields.items()
        for fault in unbounded(model, name, field.annotation, list(field.metadata))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (DetokenizeBody, {"model": "m", "tokens": [-1] * MANY}),
        (ResponseBody, {"model": "m", "input": [1] * MANY}),
        (ChatBody, {"model": "m", "messages": [TURN], "stop": [1] * MANY}),
        (ChatBody, {"model": "m", "messages": [TURN], "choice": [1] * MANY}),
        (ChatBody, {"model": "m", "messages": [1] * MANY}),
        (ChatBody, {"model": "m", "messages": [{"role": "user", "content": [1] * MANY}]}),
        (ChatBody, {"model": "m", "messages": [TURN], **{f"x{n}": 1 for n in range(MANY)}}),
        (SamplingBody, {"logit_bias": {f"x{n}": "x" for n in range(MANY)}}),
    ],
)
def test_a_bad_body_is_refused_for_a_few_things(model: type[Body], body: Any) -> None:
    try:
        model.model_validate(body)
    except ValidationError as error:
        assert error.error_count() < 10
    except InvalidRequestError as error:
        assert len(error.message) < 200
    else:
        pytest.fail("it was taken")


def test_a_few_unknown_fields_are_named() -> None:
    with pytest.raises(ValidationError) as refused:
        DetokenizeBody.model_validate({"model": "m", "tokens": [], "wrong": 1})
    assert refused.value.errors()[0]["loc"] == ("wrong",)
    with pytest.raises(InvalidRequestError, match="fields"):
        DetokenizeBody.model_validate({f"x{n}": 1 for n in range(MAX_FIELDS + 1)})


def test_values_are_counted_but_for_lists_of_integers() -> None:
    check_storable({"prompt": list(range(MAX_VALUES + 1))})
    with pytest.raises(InvalidRequestError, match="more than 200000 values"):
        check_storable({"tools": [0, ""] * (MAX_VALUES // 2)})


def test_a_body_of_more_values_than_any_good_one_is_not_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = json.dumps({"prompt": "[,{" * MAX_JSON_VALUES + '"\\'}).encode()
    assert len(parsed(text)["prompt"]) == 3 * MAX_JSON_VALUES + 2
    monkeypatch.setattr(json, "loads", None)
    for value in (b"1,", b"[],", b'"",'):
        with pytest.raises(InvalidRequestError, match="values"):
            parsed(b"[" + value * (MAX_JSON_VALUES + 1) + b"0]")


def test_every_route_with_a_body_reads_it_in_this_way(app: FastAPI) -> None:
    with_body = [route for route in app.state.routes if getattr(route, "body_field", None)]
    assert len(with_body) > 10
    assert [route.path for route in with_body if not isinstance(route, BodyRoute)] == []


@pytest.mark.parametrize("path", ["/v1/completions", "/api/generate"])
async def test_a_large_body_is_read_in_a_thread_and_once(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    threads = []

    def noted(body: Any) -> None:
        threads.append(threading.current_thread())
        check_storable(body)

    monkeypatch.setattr(bodies, "check_storable", noted)
    small = {"model": "writer", "prompt": "x", "stream": False}
    assert (await client.post(path, json=small)).status_code == 200
    large = {**small, "prompt": "x" * SMALL_BYTES}
    response = await client.post(path, json=large)
    assert (response.status_code, "tokens" in response.text) == (400, True)
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


@pytest.mark.parametrize("filler", ["", "x" * SMALL_BYTES])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m", "prompt": "x", "top_k": -1}, "top_k"),
        ({"model": "m", "prompt": "x", "seed": 10**30}, "seed"),
        ({"model": "m", "prompt": "x", "n": 2, "wrong": 1}, "wrong"),
        ({"model": "m", "prompt": "x", "temperature": float("nan")}, "temperature"),
    ],
)
async def test_errors_are_the_same_for_small_and_large_bodies(
    client: httpx.AsyncClient, filler: str, body: Any, param: str
) -> None:
    content = json.dumps({"user": filler, **body})
    headers = {"Content-Type": "application/json"}
    response = await client.post("/v1/completions", content=content, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("content", ["{" + " " * SMALL_BYTES, "[" * 2 * SMALL_BYTES])
async def test_a_large_body_that_is_not_json_is_refused(
    client: httpx.AsyncClient, content: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/v1/completions", content=content[:99_000], headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
