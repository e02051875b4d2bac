from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.training.sampling import ExampleSampler, StreamSampler, permutation


def examples(count: int = 50, batch_size: int = 4, seed: int = 1) -> ExampleSampler:
    return ExampleSampler(np.arange(count) % 7 + 1, batch_size, seed)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 2**63 - 1), st.integers(0, 500))
@settings(max_examples=50, deadline=None)
def test_what_a_step_takes_depends_on_seed_and_step_alone(
    count: int, batch_size: int, seed: int, step: int
) -> None:
    used, fresh = examples(count, batch_size, seed), examples(count, batch_size, seed)
    for earlier in range(0, step, 17):
        used.rows(earlier)
    assert used.rows(step).tolist() == fresh.rows(step).tolist()
    used_stream = StreamSampler(count + 20, 8, batch_size, seed)
    assert used_stream.rows(step).tolist() == used_stream.rows(step).tolist()


def test_every_epoch_takes_every_example_once() -> None:
    sampler = examples(count=16, batch_size=4)  # 64-step windows hold 16 whole epochs
    taken = np.concatenate([sampler.rows(step) for step in range(64)])
    assert np.bincount(taken).tolist() == [16] * 16


def test_a_batch_holds_alike_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    sampler = ExampleSampler(lengths, 10, 5)
    spread = [np.ptp(lengths[sampler.rows(step)]) for step in range(200)]
    assert np.mean(spread) < 5


def test_epochs_and_seeds_differ() -> None:
    assert permutation(1, 0, 30).tolist() != permutation(1, 1, 30).tolist()
    assert permutation(1, 0, 30).tolist() != permutation(2, 0, 30).tolist()
    assert sorted(permutation(1, 0, 30).tolist()) == list(range(30))


@given(st.integers(2, 40), st.integers(1, 8), st.integers(0, 2**32), st.integers(0, 300), st.data())
def test_blocks_and_their_labels_lie_inside_the_stream(
    block_size: int, batch_size: int, seed: int, step: int, data: st.DataObject
) -> None:
    num_tokens = data.draw(st.integers(block_size + 1, 500))
    starts = StreamSampler(num_tokens, block_size, batch_size, seed).rows(step)
    assert starts.min() >= 0 and starts.max() + block_size + 1 <= num_tokens


def test_an_epoch_of_a_stream_tiles_it() -> None:
    sampler = StreamSampler(num_tokens=1000, block_size=10, batch_size=1, seed=3)
    starts = sorted(int(sampler.rows(step)[0]) for step in range(99))
    assert np.diff(starts).tolist() == [10] * 98
