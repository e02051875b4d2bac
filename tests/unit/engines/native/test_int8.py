"""int8 by torch: exact sums on any machine, and rows that do not know of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llmos.engines.native import int8
from llmos.engines.native.int8 import (
    ByRows,
    Int8Embedding,
    Int8Linear,
    multiply,
    multiply_in_float32,
)
from llmos.engines.native.int8_model import embedding_factor, is_linear, is_of_single_numbers

SHAPES = [(1, 1, 1), (3, 64, 70), (5, 4096, 33), (2, 2100, 4100)]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator)


def linear(inputs: int, outputs: int, *, has_bias: bool = True) -> tuple[Int8Linear, torch.Tensor]:
    """A filled layer, and the float32 weight it was rounded from."""
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(inputs))
    rows = int8.quantize_rows(weight)
    layer = Int8Linear(inputs, outputs, has_bias=has_bias)
    state = {"weight": rows.numbers, "scale": rows.scale}
    state |= {"bias": torch.linspace(-1, 1, outputs)} if has_bias else {}
    layer.load_state_dict(state, assign=True)
    return layer, weight


@pytest.fixture
def asked_again() -> Iterator[None]:
    """Whether torch's own product is right is found out anew."""
    int8._has_exact_product.cache_clear()
    yield
    int8._has_exact_product.cache_clear()


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("product", [multiply, multiply_in_float32])
def test_products_are_exact(rows: int, inputs: int, outputs: int, product: object) -> None:
    a, b = numbers(rows, inputs), numbers(outputs, inputs, seed=1)
    a[0], b[0] = 127, -127  # the largest sum there is
    assert callable(product)
    assert torch.equal(product(a, b), (a.long() @ b.long().t()).int())


@pytest.mark.usefixtures("asked_again")
@pytest.mark.parametrize("fault", ["saturates", "missing"])
def test_a_product_that_is_not_exact_on_this_cpu_is_not_used(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def saturating(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if fault == "missing":
            raise RuntimeError("not implemented for this CPU")
        return (a.long() @ b.long()).clamp(-(2**15), 2**15 - 1).int()

    monkeypatch.setattr(torch, "_int_mm", saturating)
    a, b = numbers(3, 300), numbers(5, 300, seed=1)
    assert torch.equal(multiply(a, b), (a.long() @ b.long().t()).int())


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_is_near_the_float32_one(has_bias: bool) -> None:
    layer, weight = linear(192, 70, has_bias=has_bias)
    x = torch.randn(2, 9, 192, generator=torch.Generator().manual_seed(1))
    expected = F.linear(x, weight, layer.bias)
    assert layer(x).shape == expected.shape
    assert (layer(x) - expected).norm() < 0.02 * expected.norm()


def test_a_row_gets_the_same_bits_alone_and_beside_any_others() -> None:
    layer, _ = linear(320, 200)
    x = torch.randn(33, 320, generator=torch.Generator().manual_seed(1))
    x[7] *= 1e4
    x[8], x[9], x[10] = 0, torch.nan, torch.inf
    together = layer(x)
    alone = torch.cat([layer(row[None]) for row in x])
    assert torch.equal(together.nan_to_num(), alone.nan_to_num())
    assert not together[9].isfinite().any() and not together[10].isfinite().any()
    kept = [i for i in range(33) if i not in (9, 10)]
    assert together[kept].isfinite().all()
    assert layer.bias is not None and torch.equal(together[8], layer.bias)


def test_no_rows_give_none() -> None:
    layer, _ = linear(64, 70)
    assert layer(torch.zeros(1, 0, 64)).shape == (1, 0, 70)


@pytest.mark.parametrize("padding", [None, 5])
def test_an_embedding_gives_its_rows_times_its_factor(padding: int | None) -> None:
    rows = int8.quantize_rows(torch.randn(9, 32, generator=torch.Generator().manual_seed(0)))
    table = Int8Embedding(9, 32, 0.5)
    table.load_state_dict({"weight": rows.numbers, "scale": rows.scale}, assign=True)
    assert torch.equal(table(torch.tensor([[3, 8]])), rows.float()[[3, 8]][None] * 0.5)
    assert embedding_factor(torch.nn.Embedding(9, 32, padding_idx=padding)) == 1


def test_what_a_module_computes_says_whether_it_is_linear_not_its_class() -> None:
    class Doubling(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    class Table(torch.nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) + torch.arange(self.embedding_dim)

    with torch.inference_mode():
        assert is_linear(torch.nn.Linear(32, 64)) and not is_linear(Doubling(32, 64))
        assert not is_linear(torch.nn.LayerNorm(32)) and not is_linear(torch.nn.Conv2d(1, 1, 1))
        assert embedding_factor(Table(9, 32)) is None
        assert embedding_factor(torch.nn.Linear(9, 9)) is None


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Return `torch.set_num_threads`, undone at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("width", [4864, 1001])
@pytest.mark.parametrize("function", [nn.SiLU(), nn.GELU("tanh")])
def test_an_activation_gives_a_row_the_same_bits_alone_and_beside_any_others(
    threads: Callable[[int], None], num_threads: int, width: int, function: nn.Module
) -> None:
    threads(num_threads)
    ours = ByRows(function)
    for count in (5, 7, 13, 17, 50):
        x = torch.randn(1, count, width, generator=torch.Generator().manual_seed(count)) * 3
        whole = ours(x)
        assert torch.equal(whole, torch.cat([ours(x[:, i : i + 1]) for i in range(count)], dim=1))
        assert torch.allclose(whole, function(x), atol=1e-6)


def test_what_a_module_computes_says_whether_it_is_of_single_numbers() -> None:
    found = [nn.SiLU(), nn.GELU(), nn.Identity(), nn.Dropout().eval()]
    assert all(map(is_of_single_numbers, found))
    others = [nn.Softmax(dim=-1), nn.Linear(64, 64), nn.LayerNorm(64), nn.GLU(), nn.ModuleList()]
    assert not any(map(is_of_single_numbers, others))
