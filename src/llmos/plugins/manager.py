"""Registers the built-in plugins and those installed beside llmos.

A third party's plugin that fails, at load or when called, is logged, reported by name and skipped;
a built-in one that fails is a bug and raises.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pluggy

from llmos.errors import ConflictError
from llmos.plugins import hookspecs

if TYPE_CHECKING:
    from llmos.kernel.jobs import JobKind

_LOG = logging.getLogger(__name__)


class Plugins(pluggy.PluginManager):
    """The plugin manager of llmos.

    Attributes:
        failed: name of each skipped plugin, and why.
    """

    def __init__(self) -> None:
        super().__init__(hookspecs.PROJECT)
        self.failed: dict[str, str] = {}
        self._third_party: set[str] = set()
        self.add_hookspecs(hookspecs)

    def register_built_in(self, plugin: object) -> None:
        """Register a part of llmos; any error raises."""
        self.register(plugin)
        self.check_pending()

    def load_entry_points(self, points: Iterable[importlib.metadata.EntryPoint]) -> None:
        """Load and register third-party plugins, skipping and reporting those that fail."""
        for point in points:
            try:
                self.register(point.load(), name=point.name)
                self.check_pending()
            except Exception as error:  # the plugin-loading boundary: a stranger's code
                self._skip(point.name, error)
            else:
                self._third_party.add(point.name)

    def job_kinds(self) -> dict[str, JobKind]:
        """Return every job kind by name.

        Raises:
            ConflictError: two built-ins claim one name (a third party's clash is skipped).
        """
        return self._merge(
            "llmos_job_kinds", "job kind", lambda kinds: {kind.name: kind for kind in kinds}
        )

    def engines(self) -> dict[str, str]:
        """Return the dotted path of every engine by name; raises as ``job_kinds`` does."""
        return self._merge("llmos_engines", "engine", dict)

    def operators(self) -> dict[str, str]:
        """Return the dotted path of every operator by name; raises as ``job_kinds`` does."""
        return self._merge("llmos_operators", "operator", dict)

    def _merge(
        self, hook: str, noun: str, as_dict: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for name, function in self._implementations(hook):
            try:
                added = as_dict(function())
                if taken := sorted(set(added) & set(merged)):
                    raise ConflictError(f"the {noun} {taken[0]!r} is already registered")
            except Exception as error:  # the plugin-loading boundary: a stranger's code
                if name not in self._third_party:
                    raise
                self._skip(name, error)
            else:
                merged.update(added)
        return merged

    def _implementations(self, hook: str) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield (plugin name, function), built-ins first and each group as registered."""
        found = [
            (impl.plugin_name, impl.function) for impl in getattr(self.hook, hook).get_hookimpls()
        ]
        yield from sorted(found, key=lambda item: item[0] in self._third_party)

    def _skip(self, name: str, error: Exception) -> None:
        if (plugin := self.get_plugin(name)) is not None:
            self.unregister(plugin)
        self.failed[name] = f"{type(error).__name__}: {error}"
        _LOG.error("plugin %r failed and is skipped", name, exc_info=error)


def load_plugins(
    built_ins: Iterable[object],
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
) -> Plugins:
    """Return a manager with ``built_ins`` and every installed plugin registered.

    Args:
        built_ins: modules or objects of llmos itself, from the composition root.
        entry_points: third-party plugins; None means those installed (group ``llmos``).
    """
    plugins = Plugins()
    for plugin in built_ins:
        plugins.register_built_in(plugin)
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=hookspecs.PROJECT)
    plugins.load_entry_points(entry_points)
    return plugins
