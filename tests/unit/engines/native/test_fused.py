"""The extension computes what transformers does on the same weights, whoever shares the batch."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.engines.decoders import (
    LLAMA_LIKE,
    WINDOW,
    chunk,
    error,
    fused,
    logits_of,
    make_decoder,
    make_quantized,
    needed_extension,
    random_ids,
    restored,
)
from tests.unit.engines.families import greedy, run_works

from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.fused import check_layers, fused_runner
from llmos.engines.native.quantize import Quantized, open_quantized, quantize_directory
from llmos.engines.native.restore import restore
from llmos.errors import EngineError, InvalidModelError
from llmos.library.quantized import read_quantized
from llmos.types import GenerateWork, SamplingParams, TokensOut

IDS = random_ids(40)
DTYPES = ["int8", "int4"]


@pytest.mark.parametrize("kind", LLAMA_LIKE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_architecture_is_reproduced(tmp_path: Path, kind: str, dtype: str) -> None:
    library = needed_extension()
    path, quantized = make_quantized(tmp_path, kind, dtype)
    check_layers(library, quantized, path)
    ours = fused(quantized).run([chunk("a", IDS, 0, [3, 4, 5], 40)])
    assert error(ours, logits_of(restored(quantized, path), IDS)) < 0.05


@pytest.mark.parametrize("kind", LLAMA_LIKE)
def test_torch_computes_nearly_the_same_where_there_is_no_extension(
    tmp_path: Path, kind: str
) -> None:
    path, quantized = make_quantized(tmp_path, kind)
    ours = fused(quantized).run([chunk("a", IDS, 0, [3, 4, 5], 40)])
    assert error(ours, logits_of(restore(quantized, path), IDS)) < 0.04


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "gemma3"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_are_the_same_bits_however_the_tokens_come(
    tmp_path: Path, kind: str, dtype: str
) -> None:
    runner = fused(make_quantized(tmp_path, kind, dtype)[1])
    alone = runner.run([chunk("a", IDS, 0, [0, 1, 2], 40)])
    others = random_ids(30, seed=1)
    first = runner.run(
        [chunk("a", IDS[:7], 0, [7, 8, 9], 0), chunk("b", others[:13], 0, [10, 11], 1)]
    )
    second = runner.run(
        [chunk("b", others[13:20], 13, [10, 11], 7), chunk("a", IDS[7:39], 7, [7, 8, 9], 32)]
    )
    third = runner.run(
        [chunk("b", others[20:21], 20, [10, 11], 1), chunk("a", IDS[39:], 39, [7, 8, 9], 1)]
    )
    assert torch.equal(second[7:], alone[7:39]) and torch.equal(third[1], alone[39])
    b_alone = runner.run([chunk("b", others[:21], 0, [3, 4], 21)])
    assert torch.equal(b_alone[12:21], torch.cat([first, second[:7], third[:1]]))


def test_a_row_gets_the_same_bits_alone_and_among_thirty_two(tmp_path: Path) -> None:
    runner = fused(make_quantized(tmp_path)[1], num_blocks=64)
    rows = [random_ids(9 + i % 5, seed=i) for i in range(32)]
    chunks = [chunk(str(i), ids, 0, [i], 1) for i, ids in enumerate(rows)]
    together = runner.run(chunks)
    alone = [runner.run([chunk("x", ids, 0, [40], 1)]) for ids in rows]
    assert torch.equal(together, torch.cat(alone))
    decodes = [chunk(str(i), [5], len(ids), [i], 1) for i, ids in enumerate(rows)]
    stepped = runner.run(decodes)
    again = [runner.run([chunk("x", [*ids, 5], 0, [41], 1)]) for ids in rows]
    assert torch.equal(stepped, torch.cat(again))


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_threads_compute_the_bits_of_one(tmp_path: Path, kind: str, dtype: str) -> None:
    _, quantized = make_quantized(tmp_path, kind, dtype)
    for chunks in (
        [chunk("a", IDS, 0, [3, 4, 5], 40)],
        [chunk(str(i), [i], 0, [i], 1) for i in range(20)],
    ):
        one, two = (fused(quantized, threads).run(chunks) for threads in (1, 2))
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3"])
@pytest.mark.parametrize("size", [3, WINDOW, 25, 64])
def test_a_sliding_window_is_kept_whatever_the_chunks(tmp_path: Path, kind: str, size: int) -> None:
    path, quantized = make_quantized(tmp_path, kind)
    ids = random_ids(100)
    expected = logits_of(restored(quantized, path), ids)
    runner, blocks = fused(quantized), list(range(7))
    starts = [*range(0, 100, size), 100]
    pieces = [
        runner.run([chunk("a", ids[start:end], start, blocks, end - start)])
        for start, end in itertools.pairwise(starts)
    ]
    whole = fused(quantized).run([chunk("a", ids, 0, blocks, 100)])
    assert torch.equal(torch.cat(pieces), whole)
    assert error(whole, expected) < 0.05


def test_logits_of_no_token_are_none(tmp_path: Path) -> None:
    runner = fused(make_quantized(tmp_path)[1])
    assert runner.run([chunk("a", IDS[:5], 0, [0], 0)]).shape == (0, 333)


def test_a_network_with_something_of_its_own_is_left_to_torch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import transformers

    config = transformers.GraniteConfig(
        vocab_size=333,
        hidden_size=128,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        residual_multiplier=0.3,
        logits_scaling=8.0,
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "granite")
    quantize_directory(tmp_path / "granite", tmp_path / "q", "int8")
    quantized = open_quantized(tmp_path / "q")
    with pytest.raises(InvalidModelError, match="does not reproduce"):
        check_layers(needed_extension(), quantized, tmp_path / "q")
    assert fused_runner(needed_extension(), quantized, tmp_path / "q", 1) is None
    assert "is run by torch" in caplog.text


# -- in the engine ---------------------------------------------------------------------------------


def engine_of(path: Path, quantized: Quantized) -> NativeEngine:
    needed_extension()
    manifest: dict[str, Any] = {"engine": "native", "context_tokens": 128, "dtype": "int8"}
    manifest |= {"weights_bytes": quantized.num_bytes, "kv_bytes_per_token": 2 * 2 * 3 * 2 * 32}
    engine = NativeEngine()
    engine.load(path, manifest, "cpu", 1)
    return engine


def works(count: int, *, temperature: float = 0.0) -> dict[str, GenerateWork]:
    sampling = [SamplingParams(max_tokens=8, temperature=temperature, seed=i) for i in range(count)]
    return {
        str(i): GenerateWork(tuple(random_ids(3 + i, seed=i)), sampling[i]) for i in range(count)
    }


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_engine_gives_the_same_tokens_alone_and_in_a_batch(
    tmp_path: Path, temperature: float
) -> None:
    path, quantized = make_quantized(tmp_path)
    wanted = works(12, temperature=temperature)
    alone: dict[str, list[int]] = {}
    for name, work in wanted.items():
        alone |= run_works(engine_of(path, quantized), {name: work})
    engine = engine_of(path, quantized)
    assert run_works(engine, wanted, per_step=2) == alone
    assert run_works(engine, wanted) == alone  # with the prefixes of before


def test_a_weight_that_is_no_number_ends_the_rows_it_touches_and_no_others(
    tmp_path: Path,
) -> None:
    path, quantized = make_quantized(tmp_path)
    prompts = {"good": (5, 9, 11), "bad": (5, 77, 11), "other": (6, 12)}
    assert quantized.embedding.packed.scale is not None
    expected = run_works(
        engine_of(path, quantized), {k: greedy(p, 6) for k, p in prompts.items() if k != "bad"}
    )
    assert not any(77 in tokens for tokens in expected.values())
    _poison_embedding(path, 77)
    engine = engine_of(path, open_quantized(path))
    for name, prompt in prompts.items():
        engine.submit(name, greedy(prompt, 6))
    got: dict[str, list[int]] = {name: [] for name in prompts}
    failed: dict[str, Any] = {}
    while engine.has_work:
        for name, out in engine.step():
            if isinstance(out, TokensOut):
                got[name] += [piece.token_id for piece in out.pieces]
            else:
                failed[name] = out
    assert failed.keys() == {"bad"} and isinstance(failed["bad"], EngineError)
    assert "finite" in failed["bad"].message
    assert {name: got[name] for name in expected} == expected


def _poison_embedding(path: Path, token_id: int) -> None:
    """Make the scale of a token's embedding NaN in the file."""
    import struct

    from llmos.library.tensors import read_header

    file = path / "quantized.safetensors"
    data = bytearray(file.read_bytes())
    first = 8 + int.from_bytes(data[:8], "little")
    at = first + read_header(file)["embedding.scale"].begin + 4 * token_id
    data[at : at + 4] = struct.pack("<f", float("nan"))
    file.write_bytes(data)


def test_a_quantised_model_says_what_it_takes(tmp_path: Path) -> None:
    path, quantized = make_quantized(tmp_path)
    needed_extension()
    manifest = {"engine": "native", "context_tokens": 32, **read_quantized(path).manifest_keys()}
    assert manifest["weights_bytes"] == quantized.num_bytes
    estimate = NativeEngine.estimate(manifest, "cpu")
    assert NativeEngine().load(path, manifest, "cpu", 1) == estimate.total_bytes


def test_the_source_is_untouched(tmp_path: Path) -> None:
    source = make_decoder(tmp_path / "source")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    quantize_directory(source, tmp_path / "q", "int4")
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
