"""The engines that come with llmos, announced through the same hook as anyone's."""

from __future__ import annotations

from llmos.plugins.hookspecs import hookimpl


@hookimpl
def llmos_engines() -> dict[str, str]:
    """Return the built-in engines by the name a manifest gives."""
    return {
        "echo": "llmos.engines.echo:EchoEngine",
        "native": "llmos.engines.native.engine:NativeEngine",
        "pipelines": "llmos.engines.pipelines:PipelinesEngine",
    }
