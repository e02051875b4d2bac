"""Training by several processes: the same steps as by one, and one that is lost ends them all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from tests.integration import rank_without_memory
from tests.integration.killings import forker, left_by
from tests.unit.training.tiny import make_job, make_recipe

from llmos.errors import CancelledError, LlmosError, OutOfMemoryError, RecipeError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobFailed, JobLog, JobMetric
from llmos.training import handler, ranks
from llmos.training.checkpoint_writer import CheckpointWriter
from llmos.training.distribution import Team
from llmos.training.micro_batches import HalvedError, micro_batches_for
from llmos.training.ranks import RankLostError, devices_for
from llmos.training.recipe import parse
from llmos.training.trainer import Trainer

STEPS = 6


def recipe(task: str, processes: int, **changes: Any) -> dict[str, Any]:
    quick = {"steps": STEPS, "checkpoint_every": 2, "eval_every": 3, "publish": "best"}
    its = make_recipe(task, processes=processes, **(quick | changes))
    if task == "chat":
        its["model"]["config"]["num_key_value_heads"] = 2
    if task == "classify":
        its["model"]["config"] |= {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    return its


def last_checkpoint(directory: Path) -> Path:
    return directory / "checkpoint" / "checkpoints" / f"step-{STEPS:08d}"


def weights(directory: Path, name: str = "weights") -> dict[str, torch.Tensor]:
    return load_file(last_checkpoint(directory) / f"{name}.safetensors")


def losses(directory: Path) -> list[float]:
    curve = json.loads((last_checkpoint(directory) / "state.json").read_text())["curve"]
    return [point[key] for point in curve for key in ("loss", "validation_loss") if key in point]


@pytest.mark.parametrize(
    ("task", "parallel"), [("classify", "ddp"), ("chat", "fsdp"), ("chat", "tensor")]
)
def test_two_processes_take_the_steps_of_one(task: str, parallel: str, tmp_path: Path) -> None:
    its = {"parallel": parallel, "accumulate": 2, "batch_size": 5, "ema": 0.9}
    for processes in (1, 2):
        context, _ = make_job(tmp_path / str(processes), recipe(task, processes, **its))
        handler.run(context)
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-5)
    for name in ("weights", "average", "best", "optimizer"):
        one, two = (weights(tmp_path / processes, name) for processes in "12")
        assert one.keys() == two.keys()
        for key, tensor in two.items():
            assert torch.allclose(tensor, one[key], rtol=1e-3, atol=2e-4), (name, key)


def test_a_lost_process_ends_all_and_any_number_go_on_from_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    its = recipe("chat", 2, parallel="fsdp")
    its["model"]["config"] |= {"attention_dropout": 0.1}
    handler.run(make_job(tmp_path / "whole", its)[0])
    for name in ("two", "one"):
        context, sent = make_job(tmp_path / name, its)
        kill_the_other_at(5, context)
        with pytest.raises(RankLostError, match="process 1 of the training was killed by SIGKILL"):
            handler.run(context)
        assert not psutil.Process().children()
        assert max(m.step for m in sent if isinstance(m, JobMetric)) == 5
    handler.run(make_job(tmp_path / "two", its)[0])
    for name in ("weights", "optimizer", "best"):
        files = [last_checkpoint(tmp_path / d) / f"{name}.safetensors" for d in ("whole", "two")]
        assert files[0].read_bytes() == files[1].read_bytes()
    context, sent = make_job(tmp_path / "one", its | {"processes": 1, "parallel": "ddp"})
    handler.run(context)
    assert JobLog("going on from the checkpoint of step 4") in sent
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "whole"), rel=0.02)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "tensor"])
def test_two_processes_go_on_from_the_checkpoint_of_one(parallel: str, tmp_path: Path) -> None:
    its = {"parallel": parallel, "accumulate": 2, "batch_size": 5, "ema": 0.9}
    one, two = (recipe("chat", processes, **its) for processes in (1, 2))
    handler.run(make_job(tmp_path / "whole", one)[0])
    context, _ = make_job(tmp_path / "more", one)
    leave_in_step(8, context)  # the second batch of the fourth step: two to a step
    with pytest.raises(CancelledError):
        handler.run(context)
    context, sent = make_job(tmp_path / "more", two)
    handler.run(context)
    assert JobLog("going on from the checkpoint of step 4") in sent
    assert losses(tmp_path / "more") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    for name in ("weights", "average", "best", "optimizer"):
        whole, more = (weights(tmp_path / directory, name) for directory in ("whole", "more"))
        assert whole.keys() == more.keys()
        for key, tensor in more.items():
            assert torch.allclose(tensor, whole[key], rtol=1e-3, atol=2e-4), (name, key)


def kill_the_other_at(step: int, context: JobContext) -> None:
    metric = context.metric

    def kill(at: int, **values: float) -> None:
        metric(at, **values)
        if at == step:
            [other] = psutil.Process().children()
            os.kill(other.pid, signal.SIGKILL)

    context.metric = kill  # type: ignore[method-assign]


def without_memory(rank: int, fitting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many rows fit in the memory of one of the processes from the third step on."""
    monkeypatch.setenv(rank_without_memory.FITTING_ROWS, str(fitting))
    if rank == 0:
        monkeypatch.setattr(Trainer, "_backward", rank_without_memory.small)
    else:
        monkeypatch.setattr(ranks, "MODULE", rank_without_memory.__name__)
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.mark.parametrize(
    ("parallel", "rank", "fitting"), [("ddp", 1, 1), ("fsdp", 0, 2), ("tensor", 1, 3)]
)
def test_memory_that_runs_out_in_one_process_halves_what_all_compute_at_a_time(
    parallel: str, rank: int, fitting: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    its = {"parallel": parallel, "batch_size": 5}
    handler.run(make_job(tmp_path / "one", recipe("chat", 1, **its))[0])
    without_memory(rank, fitting, monkeypatch)
    two = recipe("chat", 2, **its)
    with pytest.raises(HalvedError, match=f"memory ran out in process {rank} of") as told:
        handler.run(make_job(tmp_path / "two", two)[0])
    assert told.value.retryable
    assert not psutil.Process().children()
    context, sent = make_job(tmp_path / "two", two)
    handler.run(context)
    assert JobLog("going on from the checkpoint of step 2") in sent
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    for key, tensor in weights(tmp_path / "two").items():
        assert torch.allclose(tensor, weights(tmp_path / "one")[key], rtol=1e-3, atol=2e-4), key


def test_memory_that_runs_out_a_second_time_ends_all_with_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_memory(1, 1, monkeypatch)
    context, _ = make_job(tmp_path, recipe("chat", 2, parallel="fsdp", batch_size=8))
    team = Team(1, 2, "fsdp")
    micro = micro_batches_for(context, parse(context.params["recipe"]), torch.device("cpu"), team)
    assert micro is not None
    tmp_path.joinpath("checkpoint").mkdir()
    micro.shrink()  # to two rows of each process's four
    message = r"process 1 of the training does not fit in memory: it was estimated to need \d"
    with pytest.raises(OutOfMemoryError, match=message) as told:
        handler.run(context)
    assert not told.value.retryable
    assert not psutil.Process().children()
    kept = (tmp_path / "checkpoint" / "checkpoints").iterdir()
    assert [path.name for path in kept] == ["step-00000002"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (ranks.OUT_OF_MEMORY, OutOfMemoryError),
        (ranks.HALVED, HalvedError),
        (1, RankLostError),
    ],
)
def test_how_one_was_lost_is_told_though_a_device_waits_for_it_forever(
    status: int, error: type[LlmosError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = list[int]()
    context, sent = make_job(tmp_path, recipe("chat", 2))
    monkeypatch.setattr(ranks, "NOTICE_S", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)
    watched = ranks._Ranks(context.params, context.fail)
    watched.watch(1, subprocess.Popen([sys.executable, "-c", f"raise SystemExit({status})"]))
    [said] = sent
    assert isinstance(said, JobFailed) and ended == [1]
    assert (said.code, said.retryable) == (error.code, error.retryable)
    assert "process 1 of the training" in said.message


def test_processes_that_give_way_go_on_to_the_very_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    its = recipe("generate", 2)
    its["model"]["config"] |= {"resid_pdrop": 0.1}
    handler.run(make_job(tmp_path / "whole", its)[0])
    context, _ = make_job(tmp_path / "left", its)
    leave_in_step(3, context)
    with monkeypatch.context() as patched:
        ended = write_slowly(patched)
        with pytest.raises(CancelledError):
            handler.run(context)
    assert not psutil.Process().children()
    assert not ended, "for as long as a checkpoint is written, those that left are not lost"
    handler.run(make_job(tmp_path / "left", its)[0])
    for name in ("weights", "optimizer"):
        files = [last_checkpoint(tmp_path / d) / f"{name}.safetensors" for d in ("whole", "left")]
        assert files[0].read_bytes() == files[1].read_bytes()


def write_slowly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the last checkpoint take until the other process was seen to end; return the statuses
    with which this one would have ended for its loss."""
    ended, is_seen = list[int](), threading.Event()
    save_last, watch = CheckpointWriter.save_last, ranks._Ranks.watch

    def save(self: CheckpointWriter, *args: Any) -> None:
        save_last(self, *args)
        assert is_seen.wait(20)

    def see(self: ranks._Ranks, *args: Any) -> None:
        watch(self, *args)
        is_seen.set()

    monkeypatch.setattr(CheckpointWriter, "save_last", save)
    monkeypatch.setattr(ranks._Ranks, "watch", see)
    monkeypatch.setattr(ranks, "NOTICE_S", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)
    return ended


def leave_in_step(step: int, context: JobContext) -> None:
    num_batches, wait = 0, context.wait_while_paused

    def leave() -> None:
        nonlocal num_batches
        num_batches += 1
        if num_batches == step:
            context.leave()
        wait()

    context.wait_while_paused = leave  # type: ignore[method-assign]


def test_there_are_no_more_processes_than_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices_for(2, "cpu") == ["cpu", "cpu"]
    assert devices_for(2, "cuda:1") == ["cuda:1", "cuda:2"]
    assert devices_for(4, "cuda:0") == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices_for(1, "cuda:2") == ["cuda:2"]


def test_each_process_joins_as_one_on_the_device_that_was_chosen_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices and what they would do are pretended: three, of which the last is this process's."""
    joined, chosen = dict[str, Any](), list[torch.device]()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **told: joined.update(told))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: joined["rank"])
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: joined["world_size"])
    before = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    team = ranks.join(1, 2, "fsdp", str(tmp_path / "store"), "cuda:2")
    assert team == Team(1, 2, "fsdp")
    assert chosen == [PartialState().device] == [torch.device("cuda:2")]
    assert joined["backend"] == "cpu:gloo,cuda:nccl"
    assert os.environ == before, "nothing that others would take for a launch of theirs"
    ranks.leave()
    assert PartialState._shared_state == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processes": 8}, "8 processes need a batch_size of as many rows"),
        (
            {"parallel": "fsdp", "optimizer": {"learning_rate": 0.1, "kind": "muon"}},
            "optimizer.kind muon needs whole matrices",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(make_recipe("chat", **({"processes": 2} | changes)))


@pytest.mark.parametrize(
    ("task", "message"), [("generate", "knows no plan for gpt2"), ("chat", "num_key_value_heads 1")]
)
def test_a_network_that_cannot_be_split_is_refused(task: str, message: str, tmp_path: Path) -> None:
    its = make_recipe(task, processes=2, parallel="tensor")
    with pytest.raises(RecipeError, match=message):
        handler.run(make_job(tmp_path, its)[0])


def test_the_first_process_takes_the_others_with_it_and_any_number_go_on(tmp_path: Path) -> None:
    its = recipe("generate", 2)
    its["model"]["config"] |= {"resid_pdrop": 0.1}
    params = {"recipe": its, "name": "tiny", "data": {}, "base": None}
    directories = [tmp_path / name / "checkpoint" for name in ("whole", "two", "one")]
    whole, two, one = directories
    with forker() as forked:
        assert forked.run(params, tmp_path, whole) == 0
        assert forked.run(params, tmp_path, two, writing=4) == -signal.SIGKILL
        [other] = json.loads((two / "others.json").read_text())
        wait_until_gone(other)
        shutil.copytree(two, one)
        assert forked.run(params, tmp_path, two) == 0
        fewer = params | {"recipe": its | {"processes": 1}}
        assert forked.run(fewer, tmp_path, one) == 0
    assert left_by(two) == left_by(whole)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "whole"), rel=0.02)


def wait_until_gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=20)


def test_processes_that_are_cancelled_all_end(tmp_path: Path) -> None:
    context, sent = make_job(tmp_path, recipe("generate", 2))
    metric, others = context.metric, []

    def cancel(at: int, **values: float) -> None:
        metric(at, **values)
        if at == 3:
            others.extend(psutil.Process().children())
            context.cancel()

    context.metric = cancel  # type: ignore[method-assign]
    with pytest.raises(CancelledError):
        handler.run(context)
    assert len(others) == 1 and not others[0].is_running()
    assert max(m.step for m in sent if isinstance(m, JobMetric)) == 3
    assert not torch.distributed.is_initialized() and PartialState._shared_state == {}
