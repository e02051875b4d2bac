from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llmos.training.offload import offload

CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
)


def trained(device: str) -> tuple[nn.Module, torch.optim.Optimizer, Tensor]:
    """A network in the middle of a step, with gradients, moments and tied weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 64, bias=False))
    model[2].weight = model[0].weight
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    for num_steps in range(3):
        model(torch.randn(8, 64, device=device)).square().sum().backward()
        if num_steps < 2:
            optimizer.step()
            optimizer.zero_grad()
    return model, optimizer, torch.randn(5, device=device)


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer, other: Tensor) -> list[Tensor]:
    found = [*model.parameters(), *model.buffers(), other]
    found += [p.grad for p in model.parameters() if p.grad is not None]
    states = optimizer.state.values()
    return [*found, *(value for state in states for value in state.values())]


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_what_was_moved_to_the_host_and_back_is_the_same_bit_for_bit(device: str) -> None:
    kept = trained(device)
    before = [(t, t.device, t.detach().cpu().clone()) for t in tensors(*kept)]
    assert len(before) > 12
    restore = offload(kept[0], kept[1], [kept[2]])
    assert {t.device.type for t in tensors(*kept)} == {"cpu"}
    restore()
    after = tensors(*kept)
    assert [id(t) for t in after] == [id(t) for t, _, _ in before]
    for tensor, (_, its_device, bits) in zip(after, before, strict=True):
        assert tensor.device == its_device
        assert torch.equal(tensor.detach().cpu(), bits)
    assert kept[0][2].weight is kept[0][0].weight


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_device_has_its_memory_meanwhile_and_training_goes_on_as_if_nothing_were() -> None:
    whole, disturbed = trained("cuda"), trained("cuda")
    before = torch.cuda.memory_allocated()
    restore = offload(disturbed[0], disturbed[1])
    assert torch.cuda.memory_allocated() < before
    restore()
    for model, optimizer, _ in (whole, disturbed):
        optimizer.step()
        model(torch.ones(8, 64, device="cuda")).square().sum().backward()
        optimizer.step()
    pairs = zip(whole[0].parameters(), disturbed[0].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
