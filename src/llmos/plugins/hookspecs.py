"""The whole contract with plugins: every hook llmos calls, and when.

A plugin is a module or object with functions of these names marked ``@hookimpl``. Third parties
list theirs under the entry-point group ``llmos``; the built-ins are registered the same way.
Hooks return dotted paths, not classes, so that registering imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from llmos.kernel.jobs import JobKind

PROJECT = "llmos"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def llmos_job_kinds() -> list[JobKind]:  # type: ignore[empty-body]
    """Return the kinds of job this plugin adds; called once at start."""


@hookspec
def llmos_engines() -> dict[str, str]:  # type: ignore[empty-body]
    """Return engines by name, each ``"package.module:Class"``; called once per engine process."""


@hookspec
def llmos_operators() -> dict[str, str]:  # type: ignore[empty-body]
    """Return operators of data pipelines by name, each ``"package.module:Class"``, a subclass of
    `llmos.data.pipeline.operator.Operator`; called once per process that needs them."""
