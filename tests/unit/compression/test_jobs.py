"""The quantize job's request: good ones made complete, bad ones refused with the field named."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.compression.jobs import RUNTIME_BYTES, base_params, llmos_job_kinds, validate
from llmos.errors import InvalidNameError, InvalidRequestError
from llmos.library.versions import Version
from llmos.types import FileRef

MANIFEST = {"engine": "native", "dtype": "bfloat16", "parameters": 10**9, "vocab_size": 10**5}


def version(**manifest: Any) -> Version:
    files = {"config.json": FileRef("sha256:" + "0" * 64, 2)}
    return Version(
        1, "model", "team", "m", 3, "sha256:1", MANIFEST | manifest, files, "a", 0.0, None, (), ()
    )


BASE = base_params(version())


def test_a_request_is_made_complete() -> None:
    assert validate({"model": "team/m", "base": BASE}) == {
        "model": "team/m:3",
        "dtype": "int8",
        "name": "team/m-int8",
        "base": BASE,
    }
    given = validate({"model": "team/m", "dtype": "int4", "name": "small", "base": BASE})
    assert (given["dtype"], given["name"]) == ("int4", "small")
    assert validate(given) == given
    chosen = {"model": "team/m:3", "dtype": "auto", "base": BASE}
    assert validate(chosen) == chosen


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({}, "model"),
        ({"model": "m"}, "model"),
        ({"base": {"ref": "m:1"}}, "model"),
        ({"base": BASE, "dtype": "int3"}, "dtype"),
        ({"base": BASE, "dtype": ["int8"]}, "dtype"),
        ({"base": BASE, "name": 5}, "name"),
        ({"base": BASE, "dtype": "auto", "name": "small"}, "name"),
        ({"base": BASE, "bits": 8}, "bits"),
    ],
)
def test_a_bad_request_is_refused(params: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate(params)
    assert caught.value.param == param


def test_a_name_with_a_version_is_refused() -> None:
    with pytest.raises(InvalidNameError):
        validate({"base": BASE, "name": "small:2"})


@pytest.mark.parametrize(
    ("manifest", "said"),
    [({"dtype": "int4"}, "quantised already"), ({"engine": "pipelines"}, "only models that gen")],
)
def test_what_cannot_be_quantised_is_refused_before_a_job_is_queued(
    manifest: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        base_params(version(**manifest))


def test_the_job_reserves_a_copy_of_the_largest_matrix_and_not_the_model() -> None:
    (kind,) = llmos_job_kinds()
    large = {"base": base_params(version(parameters=70 * 10**9))}
    assert kind.estimate({"base": BASE}) == RUNTIME_BYTES + 2 * 10**9
    assert RUNTIME_BYTES < kind.estimate(large) < 5 * 10**9
