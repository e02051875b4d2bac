"""Webhooks over real sockets: what a receiver gets, in plain and by TLS, and after a kill -9."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import hmac
import json
import random
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select

from llmos.errors import ForbiddenAddressError, OutboundError
from llmos.kernel.deliveries import Deliveries
from llmos.kernel.webhooks import EVENTS, Webhooks
from llmos.security.actors import Actor
from llmos.security.outbound import Outbound
from llmos.storage.database import Database
from llmos.storage.schema import webhooks

HOST = "hook.example"
CHILDREN = Path(__file__).parent


@dataclass
class Receiver:
    """An HTTP server on the loopback that keeps what it is sent and answers ``answer``."""

    answer: bytes = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    """Of the TLS handshakes."""
    port: int = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            original = dict(line.split(": ", 1) for line in lines if line)
            headers |= {name.lower(): value for name, value in original.items()}
            body = await reader.readexactly(int(headers["content-length"]))
            self.got.append((request, headers, body))
            writer.write(self.answer)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def listening(
    receiver: Receiver, context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    server = await asyncio.start_server(receiver.take, "127.0.0.1", 0, ssl=context)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver.port


async def to_loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def outbound() -> Outbound:
    return Outbound(allow_private=True, resolve=to_loopback)


async def test_a_receiver_gets_one_whole_request_that_names_it() -> None:
    receiver, sender = Receiver(), outbound()
    async with listening(receiver) as port:
        url = f"http://{HOST}:{port}/a%20b?c=d"
        assert await sender.post(url, b'{"a": 1}', {"Content-Type": "application/json"}) == 204
    ((request, headers, body),) = receiver.got
    assert request == "POST /a%20b?c=d HTTP/1.1"
    assert (headers["host"], headers["content-type"]) == (f"{HOST}:{port}", "application/json")
    assert body == b'{"a": 1}'
    assert not {"authorization", "cookie"} & set(headers)
    await sender.close()


async def test_a_private_receiver_gets_nothing_where_that_is_not_allowed() -> None:
    receiver = Receiver()
    async with listening(receiver) as port:
        for host in ("127.0.0.1", "127.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"):
            with pytest.raises(ForbiddenAddressError):
                await Outbound().post(f"http://{host}:{port}/", b"", {})
        with pytest.raises(ForbiddenAddressError):
            await Outbound(resolve=to_loopback).post(f"http://{HOST}:{port}/", b"", {})
    assert receiver.got == []


async def test_a_redirect_into_the_own_network_is_not_followed() -> None:
    inside = Receiver()
    async with listening(inside) as inner:
        location = f"Location: http://127.0.0.1:{inner}/\r\n".encode()
        head = b"HTTP/1.1 307 Temporary Redirect\r\nConnection: close\r\nContent-Length: 0\r\n"
        receiver, sender = Receiver(head + location + b"\r\n"), outbound()
        async with listening(receiver) as port:
            assert await sender.post(f"http://{HOST}:{port}/", b"x", {}) == 307
        await sender.close()
    assert (len(receiver.got), inside.got) == (1, [])


async def test_an_answer_of_any_length_is_cut_off() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    receiver, sender = Receiver(head + bytes(10**6)), outbound()
    async with listening(receiver) as port:
        assert await sender.post(f"http://{HOST}:{port}/", b"", {}) == 200
    await sender.close()


CUT_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", CUT_OFF])
async def test_a_receiver_that_speaks_no_http_is_an_error(answer: bytes) -> None:
    sender = outbound()
    async with listening(Receiver(answer)) as port:
        with pytest.raises(OutboundError, match="cannot be reached"):
            await sender.post(f"http://{HOST}:{port}/", b"", {})
    with pytest.raises(OutboundError, match="cannot be reached"):
        await sender.post(f"http://{HOST}:{port}/", b"", {})
    await sender.close()


# -- TLS -----------------------------------------------------------------------------------------


def certified(directory: Path, name: str) -> ssl.SSLContext:
    """Return a server's context with a certificate for ``name``, written as ca.pem too."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / "ca.pem").write_bytes(certificate.public_bytes(pem))
    (directory / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "ca.pem", directory / "key.pem")
    return context


async def test_tls_names_the_host_and_checks_its_certificate_not_the_addresss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, receiver, sender = certified(tmp_path, HOST), Receiver(), outbound()
    context.sni_callback = lambda _, name, __: receiver.names.append(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with listening(receiver, context) as port:
        assert await sender.post(f"https://{HOST}:{port}/", b"x", {}) == 204
        assert receiver.names == [HOST]
        with pytest.raises(OutboundError, match="other"):
            await sender.post(f"https://other.example:{port}/", b"x", {})
    assert len(receiver.got) == 1
    await sender.close()


async def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    receiver, sender = Receiver(), outbound()
    async with listening(receiver, certified(tmp_path, HOST)) as port:
        with pytest.raises(OutboundError, match=HOST):
            await sender.post(f"https://{HOST}:{port}/", b"x", {})
    assert receiver.got == []
    await sender.close()


# -- from the change of a job to the receiver ----------------------------------------------------


def is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Verify as a receiver does, by the words of the specification."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    recent = abs(time.time() - int(headers["webhook-timestamp"])) < 300
    return recent and headers["webhook-signature"] == f"v1,{digest}"


async def test_what_a_killed_server_put_down_the_next_one_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHILDREN))
    receiver = Receiver()
    async with listening(receiver) as port:
        url = f"http://127.0.0.1:{port}/"
        module = ("-m", "kernel_children.telling", str(tmp_path), url, "3")
        child = await asyncio.create_subprocess_exec(
            sys.executable, *module, stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        line = await child.stdout.readline()
        child.kill()
        await child.wait()
        assert line == b"ended\n"
        assert receiver.got == []
        database = Database.open(tmp_path / "llmos.db")
        secret = database.read_sync(lambda c: c.scalar(select(webhooks.c.secret)))
        sender = Outbound(allow_private=True)
        hooks = Webhooks(database, time.time, sender.check)
        deliveries = Deliveries(database, hooks, sender, time.time, rng=random.Random(0))
        await deliveries.step()
        await asyncio.gather(*deliveries.busy)
        assert {d.state for d in await hooks.deliveries()} == {"delivered"}
        await sender.close()
        database.close()
    told = Counter(json.loads(body)["type"] for _, _, body in receiver.got)
    assert told == {"job.queued": 3, "job.started": 3, "job.succeeded": 3}
    assert all(is_signed(secret, headers, body) for _, headers, body in receiver.got)
    assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 9


async def test_a_name_that_turned_private_is_not_sent_to_and_says_why(tmp_path: Path) -> None:
    receiver = Receiver()
    async with listening(receiver) as port:
        database = Database.open(tmp_path / "llmos.db")
        hooks = Webhooks(database, time.time, outbound().check)
        await hooks.add(f"http://{HOST}:{port}/", EVENTS, Actor("k", "o", "user"))
        put = ("o", "job.failed", {"id": 1}, time.time())
        await database.write(lambda connection: hooks.put(connection, *put))
        sender = Outbound(resolve=to_loopback)
        deliveries = Deliveries(database, hooks, sender, time.time, rng=random.Random(0))
        await deliveries.step()
        await asyncio.gather(*deliveries.busy)
        (delivery,) = await hooks.deliveries()
        assert (delivery.state, delivery.attempt) == ("pending", 1)
        assert "not only, a public address" in (delivery.error or "")
        database.close()
    assert receiver.got == []
