"""A small engine process: gives prompts back, and fails in the ways manifests and prompts ask for.

Manifest: ``load_error`` refuses to load, ``die_on_load`` dies, ``weights_bytes`` is what it
measures, ``loads`` names a file that gets a line per load. Prompt token 666 kills the process; 13
fails the work; the rest is echoed, one token a message, but after ``stall_after`` tokens (manifest)
a stream stalls unless it brings ``generated_ids``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from llmos.kernel.protocol import (
    Cancel,
    FromEngine,
    Load,
    Loaded,
    LoadFailed,
    Output,
    SetThreads,
    Submit,
    SyncChannel,
    ToEngine,
    Unload,
    Unloaded,
    WorkFailed,
)
from llmos.types import GenerateWork, PipelineOut, TokenPiece, TokensOut

POISON, WRONG = 666, 13


def main(fd: int) -> None:
    channel = SyncChannel.from_fd(fd, ToEngine)
    manifests: dict[str, dict[str, Any]] = {}
    while (message := channel.receive()) is not None:
        match message:
            case Load():
                channel.send(load(message))
                manifests[message.key] = message.manifest
            case Unload(key):
                channel.send(Unloaded(key))
            case SetThreads(threads):
                print("threads", threads, flush=True)
            case Cancel(work_id):
                print("cancelled", work_id, flush=True)
            case Submit():
                for out in echo(message, manifests[message.key]):
                    channel.send(out)


def load(message: Load) -> FromEngine:
    manifest = message.manifest
    if "loads" in manifest:
        with Path(manifest["loads"]).open("a") as loads:
            loads.write(f"{message.key}\n")
    if manifest.get("die_on_load"):
        os._exit(3)
    if "load_error" in manifest:
        return LoadFailed(message.key, manifest["load_error"], "it is broken")
    return Loaded(message.key, manifest.get("weights_bytes", 100) - message.short_bytes, 0.5)


def echo(message: Submit, manifest: dict[str, Any]) -> list[FromEngine]:
    work = message.work
    ids = work.prompt_ids if isinstance(work, GenerateWork) else work.input_ids
    if POISON in ids:
        os._exit(7)
    if WRONG in ids:
        return [WorkFailed(message.id, "context_length_exceeded", "too long")]
    if not isinstance(work, GenerateWork):
        return [Output(message.id, PipelineOut(token_ids=ids))]
    done = len(work.generated_ids)
    tokens = [Output(message.id, TokensOut((TokenPiece(token),))) for token in ids[done:]]
    if "stall_after" in manifest and not done:
        return list(tokens[: manifest["stall_after"]])
    return [*tokens, Output(message.id, TokensOut(finish_reason="stop"))]


if __name__ == "__main__":
    main(int(sys.argv[1]))
