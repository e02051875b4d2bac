"""Packed weights: what goes in comes out, within the rounding, in the layout that is promised."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from llmos.engines.native.int8 import quantize_rows
from llmos.engines.native.packing import (
    GROUP,
    TILE,
    Packed,
    pack,
    unpack,
    unpack_int4,
    unpack_rows,
)

SHAPES = [(64, 64), (1, 1), (100, 70), (333, 96), (4096 + 130, 32)]


def random_weight(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_weights_come_back_within_half_a_step_of_their_row(shape: tuple[int, int]) -> None:
    weight = random_weight(*shape)
    packed = pack(weight, 8)
    assert packed.data.dtype == torch.uint8 and packed.data.numel() == packed.num_bytes
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((unpack(packed).float() - weight).abs() <= step * 0.5001).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_int4_weights_come_back_within_a_step_of_their_group(shape: tuple[int, int]) -> None:
    weight = random_weight(*shape)
    packed = pack(weight, 4)
    assert packed.scale is None and packed.data.numel() == packed.num_bytes
    back = unpack_int4(packed)
    for first in range(0, shape[1], GROUP):
        group, ours = weight[:, first : first + GROUP], back[:, first : first + GROUP]
        step = group.abs().amax(dim=1, keepdim=True) / 8
        assert ((ours - group).abs() <= step * 1.7).all()  # what is cut off by a smaller scale
        assert (ours - group).norm() <= 0.12 * group.norm()


def test_an_int4_weight_that_has_sixteen_values_is_kept_exactly() -> None:
    numbers = torch.randint(-8, 8, (64, 64), generator=torch.Generator().manual_seed(0))
    numbers[:, ::GROUP] = -8  # the largest of each group
    weight = numbers * 0.25
    assert torch.equal(unpack_int4(pack(weight, 4)), weight)


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros(bits: Literal[4, 8]) -> None:
    assert not unpack(pack(torch.zeros(70, 70), bits)).float().any()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_matrix_too_large_for_one_go_is_packed_as_its_tiles_are(bits: Literal[4, 8]) -> None:
    weight = random_weight(4096 + 130, 32)
    whole = pack(weight, bits)
    parts = [pack(part, bits) for part in torch.split(weight, TILE)]
    assert torch.equal(whole.data, torch.cat([part.data for part in parts]))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_weight_is_packed_alike_in_whatever_type_it_is_stored(bits: Literal[4, 8]) -> None:
    weight = random_weight(70, 70).bfloat16()
    assert torch.equal(pack(weight, bits).data, pack(weight.float(), bits).data)


def test_single_rows_are_those_of_the_whole() -> None:
    packed = pack(random_weight(333, 70), 8)
    rows = [0, 63, 64, 332, 5, 5] * 100
    some, whole = unpack_rows(packed, rows), unpack(packed)[rows]
    assert torch.equal(some.numbers, whole.numbers) and torch.equal(some.scale, whole.scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_weights_come_back_as_the_rows_they_were_rounded_to(shape: tuple[int, int]) -> None:
    weight = random_weight(*shape)
    back, rows = unpack(pack(weight, 8)), quantize_rows(weight)
    assert torch.equal(back.numbers, rows.numbers) and torch.equal(back.scale, rows.scale)


def test_int4_weights_come_back_as_int8_with_hardly_another_error() -> None:
    packed = pack(random_weight(333, 96), 4)
    exact = unpack_int4(packed)
    assert (unpack(packed).float() - exact).norm() < 0.01 * exact.norm()


def test_the_int8_layout_is_tiles_of_64_columns_by_fours_of_inputs() -> None:
    packed = pack(random_weight(100, 70), 8)
    assert (packed.n, packed.k) == (128, 128)
    assert packed.scale is not None
    at = packed.data.view(2, 32, TILE, 4)[1, 9, 3, 2]
    expected = unpack(Packed(packed.data, packed.scale, 8, 128, 128)).numbers[64 + 3, 4 * 9 + 2]
    assert int(at) - 128 == int(expected)
