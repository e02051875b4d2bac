"""What one process of a training does for its part of the work, and what all of them do together.

`alone` is the team of one. In a larger one each process takes its rows of every batch, a pure
function of the rows and its rank, and sums are over all, so that any number of processes take the
same steps up to rounding. `ranks` starts them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from accelerate import ParallelismConfig
from accelerate.utils import broadcast, reduce
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)
from transformers import PreTrainedModel

from llmos.data.encoding import IntArray
from llmos.errors import RecipeError
from llmos.training.sampling import random_bits

Parallel = Literal["ddp", "fsdp", "tensor"]
BUCKET_BYTES = 25 * 2**20
STEPS = 3
"""The stream of random bits that seeds steps; see `sampling` for the others."""
STYLES: dict[str, type[ParallelStyle]] = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}


@dataclass(frozen=True, slots=True)
class Team:
    """The processes of one training, as one of them sees it."""

    rank: int = 0
    size: int = 1
    parallel: Parallel = "ddp"

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def shares_rows(self) -> bool:
        """Whether each process has rows of its own; with `tensor` all compute the same ones."""
        return self.size > 1 and self.parallel != "tensor"

    def shares(self, num_rows: int) -> tuple[int, int]:
        """Return how many of a batch's rows a process has at least, and at most."""
        size = self.size if self.shares_rows else 1
        return num_rows // size, math.ceil(num_rows / size)

    def own(self, rows: IntArray) -> IntArray:
        """Return which of a batch's rows are this process's."""
        return rows[self.rank :: self.size] if self.shares_rows else rows

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums of numbers over the processes that have rows of their own."""
        if not self.shares_rows:
            return [*numbers]
        together: Tensor = reduce(torch.tensor(numbers, dtype=torch.float64), "sum")
        return [float(number) for number in together]

    def any(self, is_so: bool) -> bool:
        """Say whether it is so in any process: the same answer in all."""
        if self.size == 1:
            return is_so
        return bool(reduce(torch.tensor(float(is_so)), "max"))

    def begin_step(self, seed: int, step: int) -> None:
        """Give each process dropout of its own, which hangs on seed, step and rank alone. Where
        all compute the same rows it is the same."""
        if self.size > 1:
            rank = self.rank if self.shares_rows else 0
            torch.manual_seed(int(random_bits(seed, step, STEPS + rank, 1)[0]) % 2**63)

    def place(self, model: PreTrainedModel) -> None:
        """Make a model that is whole in every process this process's part of it, in place.

        Raises:
            RecipeError: the model cannot be split so.
        """
        if self.size == 1:
            return
        broadcast([tensor.detach() for tensor in (*model.parameters(), *model.buffers())])
        if self.parallel == "fsdp":
            mesh = ParallelismConfig(dp_shard_size=self.size).build_device_mesh(model.device.type)
            _shard(model, mesh)
        elif self.parallel == "tensor":
            mesh = ParallelismConfig(tp_size=self.size).build_device_mesh(model.device.type)
            _split(model, mesh)

    def add_gradients(self, model: nn.Module) -> None:
        """Make each gradient the sum of those of all processes."""
        if self.shares_rows and self.parallel == "ddp":
            _add_up([p for p in model.parameters() if p.requires_grad])

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        """Scale gradients to a norm of at most ``limit``; return the norm they had."""
        if self.size > 1 and self.parallel == "tensor":
            return _clip_mixed(parameters, limit)
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        return whole(norm)


alone = Team()


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor of which each process has a part; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all of each; every process must ask."""
    return {name: whole(tensor) for name, tensor in tensors.items()}


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor's part where ``like`` is a part; what is none, or one already, as it
    is."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    there = tensor.to(like.device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


def _shard(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Have each process keep a part of every weight, gathered where it is computed with (FSDP:
    Zhao et al., arXiv:2304.11277): layer by layer, and the rest at once."""
    for layers in (part for part in model.modules() if isinstance(part, nn.ModuleList)):
        for layer in layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)  # losses are shares of the whole already
            part.set_force_sum_reduction_for_comms(True)  # all that gloo can do


def _split(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Give each process some heads and some of the width between (Shoeybi et al.,
    arXiv:1909.08053), as transformers' plan of the architecture says."""
    wanted = getattr(model.config, "base_model_tp_plan", None) or {}
    plan = {name: STYLES[style]() for name, style in wanted.items() if style in STYLES}
    if not plan or set(wanted.values()) - set(STYLES):
        raise RecipeError(
            f"parallel: tensor knows no plan for {model.config.model_type}: use ddp or fsdp"
        )
    for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        count = getattr(model.config, key, None) or 0
        if count % mesh.size():
            raise RecipeError(f"parallel: tensor needs {key} {count} to be shared by {mesh.size()}")
    parallelize_module(model.base_model, mesh, plan)


def _add_up(parameters: Sequence[nn.Parameter]) -> None:
    has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
    dist.all_reduce(has, dist.ReduceOp.MAX)
    used = [p for p, is_used in zip(parameters, has.tolist(), strict=True) if is_used]
    for parameter in used:
        if parameter.grad is None:  # only other processes' rows reach it
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([p.grad for p in used if p.grad is not None]):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        sizes = [gradient.numel() for gradient in bucket]
        for gradient, summed in zip(bucket, torch.split(flat, sizes), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return tensors in groups of one dtype and of some megabytes."""
    buckets: list[list[Tensor]] = []
    num_bytes = BUCKET_BYTES
    for tensor in tensors:
        if num_bytes >= BUCKET_BYTES or buckets[-1][0].dtype != tensor.dtype:
            buckets.append([])
            num_bytes = 0
        buckets[-1].append(tensor)
        num_bytes += tensor.nbytes
    return buckets


@torch.no_grad()
def _clip_mixed(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Clip gradients of which some are in parts and others the same in every process."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    parts = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    same = [g for g in gradients if not isinstance(g, DTensor)]
    squares = torch.zeros((), device=gradients[0].device)
    for part in parts:
        squares += part.float().square().sum()
    dist.all_reduce(squares)
    norm = torch.stack([squares, *(g.float().square().sum() for g in same)]).sum().sqrt()
    if math.isfinite(limit):
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for gradient in (*parts, *same):
            gradient.mul_(scale)
    return norm
