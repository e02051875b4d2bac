"""Documents are parsed by a process of its own, ``python -m llmos.data.formats.parser``: what kills
it, or has it run on and on, is bad alone, and another goes on with the next document.

It takes a Source a line of its input, and answers with a line for each row or what is bad, and an
empty one at the end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self

import msgspec

from llmos.data.datasets.readers import Bad, Source, printable, read
from llmos.data.pipeline.record import Row
from llmos.errors import DataError, LlmosError
from llmos.kernel.child import describe_exit
from llmos.kernel.worker import die_with_server

CPU_S = 60
"""Of processor time that a row may take, and a second more for each MB of its file: what takes more
is taken to run for ever."""
COMMAND = (sys.executable, "-P", "-m", "llmos.data.formats.parser")


class ParserLostError(LlmosError):
    """The process that parses documents was ended from outside."""

    code = "data_parser_lost"
    retryable = True


class Said(msgspec.Struct, omit_defaults=True):
    """A line of its answer: a row, or what is bad, or neither at the end."""

    row: Row | None = None
    bad: Bad | None = None


class Parser:
    """The process that parses documents, which is started when there is one. Close it after."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, source: Source) -> Iterator[Row | Bad]:
        """Yield the rows of a document and what is bad in it; where it ends the process, that too.

        Raises:
            ParserLostError: the process was killed, which no document does.
        """
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(source, enc_hook=str) + b"\n")
            process.stdin.flush()
        for line in process.stdout:
            said = msgspec.json.decode(line, type=Said)
            if said.row is not None:
                yield said.row
            elif said.bad is not None:
                yield said.bad
            else:
                return
        status = process.wait()
        self.close()
        if status == -signal.SIGKILL:
            raise ParserLostError(f"the process that parsed {source.shown} was killed")
        yield Bad(source.shown, _reason(status))

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        return self._process


def _reason(status: int) -> str:
    if status == -signal.SIGXCPU:
        return f"reading it takes longer than {CPU_S} s: it may be made to never end"
    return f"what reads it {describe_exit(status)}"


def main() -> None:
    """Parse documents until there are no more."""
    die_with_server()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(0, "rb", closefd=False) as lines:
        for line in lines:
            source = msgspec.json.decode(line, type=Source, dec_hook=_decoded)
            answer(source, answers)


def answer(source: Source, answers: IO[bytes]) -> None:
    """Write the rows of a document, and at last an empty answer."""
    seconds = CPU_S + source.path.stat().st_size // 2**20
    _allow(seconds)
    for said in _said(source):
        answers.write(msgspec.json.encode(said) + b"\n")
        answers.flush()
        _allow(seconds)
    answers.write(msgspec.json.encode(Said()) + b"\n")
    answers.flush()


def _said(source: Source) -> Iterator[Said]:
    try:
        for one in read(source):
            yield Said(bad=one) if isinstance(one, Bad) else Said(row=one)
    except DataError as error:
        yield _bad(source, error.message)
    except MemoryError:
        yield _bad(source, "reading it takes more memory than there is for it")
    except Exception as error:  # the top loop of a process
        yield _bad(source, f"it cannot be read: {type(error).__name__}: {error}")


def _bad(source: Source, reason: str) -> Said:
    return Said(bad=Bad(source.shown, printable(reason.removeprefix(f"{source.shown} "))[:1000]))


def _allow(seconds: int) -> None:
    """Have the system end this process (SIGXCPU) once it has run for so long from now on."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    until = int(time.process_time()) + 1 + seconds
    least = until if most == resource.RLIM_INFINITY else min(until, most)
    resource.setrlimit(resource.RLIMIT_CPU, (least, most))


def _decoded(kind: type[Any], value: Any) -> Any:
    return Path(value) if kind is Path else value


if __name__ == "__main__":
    main()
