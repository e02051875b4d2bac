"""LoRA adapters over one transformers model: any number loaded, each row of a step with its own.

``read_adapter`` gives an adapter as plain data, whoever computes with it. ``Adapters`` lays them
over a model's linear modules: rows without an adapter are computed as if none were loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from llmos.engines.loading import Model
from llmos.engines.native.attention import RowChunk
from llmos.errors import EngineError
from llmos.library.adapters import matrix_names, read_layout, wrong_base
from llmos.library.files import ADAPTER_FILE

Rows = slice | Tensor
"""Rows of a packed step: neighbours as a slice, others as a tensor of indices."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to a module's output: ``x @ a.T @ b.T * scaling``."""

    a: Tensor  # [rank, inputs]
    b: Tensor  # [outputs, rank]
    scaling: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return the addition ``[T, outputs]`` for inputs ``[T, inputs]``."""
        return F.linear(F.linear(x, self.a), self.b) * self.scaling


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter as it was trained, in float32 on the CPU: module path -> what it adds there.

    ``rank`` is the largest; a module's own is that of its ``a``.
    """

    rank: int
    modules: dict[str, LowRank]

    def to(self, device: torch.device, dtype: torch.dtype) -> Adapter:
        """Return it where, and as what, a model computes."""
        moved = {
            path: LowRank(m.a.to(device, dtype), m.b.to(device, dtype), m.scaling)
            for path, m in self.modules.items()
        }
        return Adapter(self.rank, moved)

    @property
    def num_bytes(self) -> int:
        """Bytes of its matrices."""
        return sum(m.a.nbytes + m.b.nbytes for m in self.modules.values())


def read_adapter(path: Path) -> Adapter:
    """Return the PEFT adapter in directory ``path``.

    Raises:
        InvalidModelError: it is none, or of a kind that llmos does not compute; says which.
    """
    layout = read_layout(path)
    tensors = load_file(path / ADAPTER_FILE)
    modules = {}
    for module, update in layout.updates.items():
        a, b = (tensors[name].float() for name in matrix_names(module))
        modules[module] = LowRank(a, b, update.scaling)
    return Adapter(layout.rank, modules)


def check_modules(adapter: Adapter, sizes: dict[str, tuple[int, int]], base: str) -> None:
    """See that the base has every module of the adapter, of its size.

    Args:
        sizes: module path -> (inputs, outputs) of every linear module of the base.
        base: what to call it in an error.

    Raises:
        InvalidModelError: it has not; the first difference is named.
    """
    for path, update in adapter.modules.items():
        wanted = (update.a.shape[1], update.b.shape[0])
        if (found := sizes.get(path)) is None:
            raise wrong_base(base, f"it has no linear module {path}")
        if found != wanted:
            raise wrong_base(
                base,
                f"{path} takes {found[0]} numbers and gives {found[1]}, "
                f"where the adapter was made for {wanted[0]} and {wanted[1]}",
            )


class Adapters:
    """The adapters of one model, and which rows of the current step want which.

    ``load`` may be called from another thread than the rest: modules are touched only by
    ``applied`` and ``drop``, in the thread that computes.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._loaded: dict[str, Adapter] = {}
        self._attached: set[str] = set()
        self._sites: dict[str, _Site] = {}
        self._step = _Step()

    def load(self, key: str, path: Path) -> int:
        """Read the adapter in directory ``path``; return the bytes it takes on the device.

        Raises:
            InvalidModelError: it is none, or it does not fit this model.
            torch.OutOfMemoryError: the device has no room for it.
        """
        adapter = read_adapter(path)
        named = self._model.named_modules()
        sizes = {name: size for name, module in named if (size := linear_size(module)) is not None}
        check_modules(adapter, sizes, type(self._model).__name__)
        adapter = adapter.to(self._model.device, self._model.dtype)
        self._loaded[key] = adapter
        return adapter.num_bytes

    def drop(self, key: str) -> None:
        """Forget an adapter; no row may want it any more."""
        if adapter := self._loaded.pop(key, None):
            self._attached.discard(key)
            for path in adapter.modules:
                if (site := self._sites.get(path)) and site.remove(key):
                    del self._sites[path]

    @contextmanager
    def applied(self, chunks: Sequence[RowChunk]) -> Iterator[None]:
        """Let the model's forward of ``chunks``, packed in one row, add what each row wants.

        Raises:
            EngineError: a chunk wants an adapter that is not loaded.
        """
        keys = {chunk.adapter for chunk in chunks} - {""}
        for key in keys - self._attached:
            self._attach(key)
        if keys:
            self._step.begin(chunks, self._model.device)
        try:
            yield
        finally:
            self._step.end()

    def _attach(self, key: str) -> None:
        if (adapter := self._loaded.get(key)) is None:
            raise EngineError("The adapter is not loaded.")
        for path, update in adapter.modules.items():
            if path not in self._sites:
                self._sites[path] = _Site(self._model.get_submodule(path), self._step)
            self._sites[path].updates[key] = update
        self._attached.add(key)


def linear_size(module: Any) -> tuple[int, int] | None:
    """Return the (inputs, outputs) of a linear module, GPT-2's Conv1D too; None for any other."""
    if type(module).__name__ == "Conv1D":
        return module.nx, module.nf
    if isinstance(inputs := getattr(module, "in_features", None), int):
        return inputs, module.out_features
    return None


@dataclass(slots=True)
class _Step:
    """Which rows of a packed step want which adapter: of all its tokens, and of those with logits.

    A model's head sees the latter alone.
    """

    _by_count: dict[int, list[tuple[str, Rows]]] = field(default_factory=dict)

    def begin(self, chunks: Sequence[RowChunk], device: torch.device) -> None:
        for counts in (
            [chunk.num_logits for chunk in chunks],
            [len(chunk.token_ids) for chunk in chunks],
        ):
            keyed = zip((chunk.adapter for chunk in chunks), counts, strict=True)
            self._by_count[sum(counts)] = _rows_by_key(keyed, device)

    def end(self) -> None:
        self._by_count.clear()

    def rows(self, count: int) -> list[tuple[str, Rows]]:
        """Return who wants what of ``count`` rows."""
        return self._by_count[count] if self._by_count else []


def _rows_by_key(keyed: Iterable[tuple[str, int]], device: torch.device) -> list[tuple[str, Rows]]:
    """Return each adapter's rows, given (key, number of rows) from the first row on."""
    spans: dict[str, list[tuple[int, int]]] = {}
    start = 0
    for key, count in keyed:
        end = start + count
        own = spans.setdefault(key, [])
        if own and own[-1][1] == start:
            own[-1] = (own[-1][0], end)
        elif count:
            own.append((start, end))
        start = end
    return [(key, _rows(own, device)) for key, own in spans.items() if key and own]


def _rows(spans: list[tuple[int, int]], device: torch.device) -> Rows:
    if len(spans) == 1:
        return slice(*spans[0])
    return torch.tensor([row for span in spans for row in range(*span)], device=device)


class _Site:
    """A forward hook on one linear module: adds to its output what the rows of the step want."""

    def __init__(self, module: torch.nn.Module, step: _Step) -> None:
        self.updates: dict[str, LowRank] = {}
        self._step = step
        self._handle: RemovableHandle = module.register_forward_hook(self)

    def __call__(self, module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        x = args[0].reshape(-1, args[0].shape[-1])
        out = output.view(-1, output.shape[-1])
        for key, rows in self._step.rows(x.shape[0]):
            if update := self.updates.get(key):
                out[rows] += update(x[rows])

    def remove(self, key: str) -> bool:
        """Forget an adapter; True when it was the last, and the module is bare again."""
        self.updates.pop(key, None)
        if not self.updates:
            self._handle.remove()
        return not self.updates
