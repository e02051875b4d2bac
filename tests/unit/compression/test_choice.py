"""When an import is quantised unasked, and to what."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.compression.choice import MIN_PARAMETERS, fitting_dtypes, int8_bytes, is_worth_it

LARGE: dict[str, Any] = {
    "engine": "native",
    "dtype": "bfloat16",
    "parameters": 500_000_000,
    "weights_bytes": 10**9,
    "kv_bytes_per_token": 12_288,
    "context_tokens": 1024,
}


def test_a_large_decoder_is_worth_it() -> None:
    assert is_worth_it(LARGE)
    assert is_worth_it(LARGE | {"parameters": MIN_PARAMETERS})


@pytest.mark.parametrize(
    "changes", [{"parameters": MIN_PARAMETERS - 1}, {"engine": "pipelines"}, {"dtype": "int8"}]
)
def test_small_and_quantised_and_other_models_are_not(changes: dict[str, Any]) -> None:
    assert not is_worth_it(LARGE | changes)


def test_int8_is_taken_where_model_and_cache_fit_and_int4_where_not() -> None:
    needed = int8_bytes(LARGE)
    assert needed == 500_000_000 + 16 * 1024 * 12_288
    assert int8_bytes(LARGE | {"dtype": "float32", "kv_bytes_per_token": 24_576}) == needed
    assert fitting_dtypes(LARGE, needed, has_extension=True) == ("int8",)
    assert fitting_dtypes(LARGE, needed - 1, has_extension=True) == ("int4", "int8")
    assert fitting_dtypes(LARGE, needed - 1, has_extension=False) == ("int8",)
