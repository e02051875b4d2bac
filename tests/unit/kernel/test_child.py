from __future__ import annotations

import socket
import struct

import pytest

from llmos.kernel import protocol
from llmos.kernel.child import AsyncChannel, describe_exit, thread_environ
from llmos.kernel.protocol import (
    MAX_MESSAGE_BYTES,
    CancelJob,
    FromWorker,
    Heartbeat,
    JobLog,
    PauseJob,
    StartJob,
    SyncChannel,
    ToWorker,
    UnsendableError,
    encode,
    pack,
)


@pytest.fixture
async def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = await AsyncChannel.open(ours, FromWorker)
    yield channel, theirs
    await channel.close()
    theirs.close()


async def test_messages_cross_both_ways_in_order(pair) -> None:
    channel, theirs = pair
    theirs.sendall(encode(Heartbeat()) + encode(JobLog("a")) + encode(JobLog("b"))[:5])
    assert await channel.receive() == [Heartbeat(), JobLog("a")]
    theirs.sendall(encode(JobLog("b"))[5:])
    assert await channel.receive() == [JobLog("b")]
    channel.send(PauseJob(True))
    channel.send(CancelJob())
    child = SyncChannel(theirs, ToWorker)
    assert [child.receive(), child.receive()] == [PauseJob(True), CancelJob()]


async def test_a_large_message_comes_whole(pair) -> None:
    channel, theirs = pair
    line = "x" * 100_000
    theirs.sendall(encode(JobLog(line)))
    assert await channel.receive() == [JobLog(line)]


@pytest.mark.parametrize("value", [2**64, "\ud800", object(), {"a": [10**400]}])
async def test_what_cannot_be_encoded_is_one_error_and_nothing_of_it_is_sent(
    pair, value: object
) -> None:
    channel, theirs = pair
    with pytest.raises(UnsendableError):
        channel.send(StartJob(1, 1, 1, "m:f", "n", {"value": value}, "o", "/", "/", 1, 1.0))
    channel.send(CancelJob())
    assert SyncChannel(theirs, ToWorker).receive() == CancelJob()


def test_what_is_larger_or_deeper_than_a_message_may_be_is_unsendable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnsendableError, match="recursion"):
        pack(deep)
    monkeypatch.setattr(protocol, "MAX_MESSAGE_BYTES", 10)
    with pytest.raises(UnsendableError, match="over the limit of 10"):
        encode(JobLog("x" * 10))


async def test_a_closed_peer_is_the_end_and_sending_to_it_no_error(pair) -> None:
    channel, theirs = pair
    theirs.sendall(encode(Heartbeat()) + b"\0\0")
    theirs.close()
    assert await channel.receive() == [Heartbeat()]
    assert await channel.receive() == []
    channel.send(CancelJob())
    await channel.close()
    channel.send(CancelJob())


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", MAX_MESSAGE_BYTES + 1),
        struct.pack(">I", 3) + b"abc",
        encode(CancelJob()),
    ],
)
async def test_what_is_no_message_is_a_value_error(pair, data: bytes) -> None:
    channel, theirs = pair
    theirs.sendall(data)
    with pytest.raises(ValueError):
        await channel.receive()


def test_exits_are_described_for_people() -> None:
    assert describe_exit(0) == "ended with status 0"
    assert describe_exit(-9) == "was killed by SIGKILL"
    assert describe_exit(-99) == "ended with status -99"


def test_numeric_libraries_are_told_their_threads() -> None:
    counts = {name: v for name, v in thread_environ(3).items() if name.endswith("_THREADS")}
    assert set(counts.values()) == {"3"}
    assert {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"} <= set(counts)
