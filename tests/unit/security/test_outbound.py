"""What llmos refuses to send to, however it is written, and how it sends what it does send."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from llmos.errors import ForbiddenAddressError, InvalidRequestError, LlmosError, OutboundError
from llmos.security.outbound import MAX_ANSWER_BYTES, Outbound, Received, is_public, parse_url

PUBLIC = "93.184.216.34"
WRITTEN_PRIVATELY = [
    "http://127.0.0.1/",
    "http://127.0.0.1:8642/api/v1/shutdown",
    "https://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://127.255.255.254/",
    "http://0/",
    "http://0.0.0.0/",
    "http://0.1.2.3/",
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://0xa000001/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://192.168.1.1:80/",
    "http://3232235777/",
    "http://169.254.169.254/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://2852039166/",
    "http://100.64.0.1/",
    "http://192.0.0.192/",
    "http://198.18.0.1/",
    "http://192.0.2.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[0000::0001]:8080/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[0:0:0:0:0:ffff:10.0.0.1]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://[100::1]/",
    "http://localhost/",
    "http://LOCALHOST:80/",
    "HTTP://127.0.0.1/",
]
WRITTEN_WRONGLY = [
    "",
    "127.0.0.1",
    "//127.0.0.1/",
    "http:127.0.0.1",
    "http:/127.0.0.1/",
    "http:///127.0.0.1/",
    "http://",
    "http://:80/",
    "http://user@example.com/",
    "http://user:pass@127.0.0.1/",
    "http://example.com@127.0.0.1/",
    "http://@127.0.0.1/",
    "http://127.0.0.1#@example.com/",
    "http://example.com#x",
    "http://example.com\\@127.0.0.1/",
    "http:\\\\127.0.0.1\\",
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[::1",
    "http://[v1.x]/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://ⓛocalhost/",
    "http://exa mple.com/",
    "http://example.com\r\nHost: 127.0.0.1/",
    "http://example.com\t/",
    "http://127.0.0.1%2f@example.com/",
    "http://%31%32%37.0.0.1/",
    "http://example.com:0/",
    "http://example.com:65536/",
    "http://example.com:-1/",
    "http://example.com:80x/",
    "http://a_b-.-/",
    "http://-/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:70/_x",
    "unix:///run/docker.sock",
    "javascript:alert(1)",
    "data:,x",
    "http://" + "a" * 2000 + "/",
]


def resolving(*addresses: str) -> Callable[[str, int], object]:
    async def resolve(host: str, port: int) -> list[str]:
        if not addresses:
            raise OSError("no such host")
        return list(addresses)

    return resolve


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> httpx.MockTransport:
    return httpx.MockTransport(handler)


def refuse(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"something was sent to {request.url}")


@pytest.mark.parametrize("url", WRITTEN_PRIVATELY)
async def test_a_private_address_is_refused_however_it_is_written(url: str) -> None:
    outbound = Outbound(transport=answering(refuse))
    for attempt in (outbound.check(url), outbound.post(url, b"", {})):
        with pytest.raises((InvalidRequestError, OutboundError)) as refused:
            await attempt
        assert not isinstance(refused.value, OutboundError) or "resolved" in refused.value.message


def test_enough_ways_are_tried() -> None:
    assert len(WRITTEN_PRIVATELY) >= 40


@pytest.mark.parametrize("url", WRITTEN_WRONGLY)
async def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    outbound = Outbound(transport=answering(refuse), resolve=resolving(PUBLIC), allow_private=True)
    for attempt in (outbound.check(url), outbound.post(url, b"", {})):
        with pytest.raises(InvalidRequestError) as refused:
            await attempt
        assert refused.value.param == "url"


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        [PUBLIC, "10.0.0.1"],
        ["10.0.0.1", PUBLIC],
        ["fe80::1%eth0"],
        ["::ffff:192.168.0.1"],
        ["not an address"],
    ],
)
async def test_a_name_with_any_private_address_is_refused(addresses: list[str]) -> None:
    outbound = Outbound(transport=answering(refuse), resolve=resolving(*addresses))
    for attempt in (
        outbound.check("http://rebind.example/"),
        outbound.post("http://rebind.example/", b"", {}),
    ):
        with pytest.raises(ForbiddenAddressError, match=r"rebind\.example") as refused:
            await attempt
        assert "10.0.0.1" not in refused.value.message


async def test_a_name_that_turns_private_after_it_was_checked_is_refused_when_sent_to() -> None:
    answers = [[PUBLIC], ["127.0.0.1"]]

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop(0)

    outbound = Outbound(transport=answering(refuse), resolve=resolve)
    await outbound.check("http://rebind.example/")
    with pytest.raises(ForbiddenAddressError):
        await outbound.post("http://rebind.example/", b"", {})


async def test_a_name_that_is_nowhere_is_refused() -> None:
    with pytest.raises(OutboundError, match="resolved"):
        await Outbound(resolve=resolving()).check("http://nowhere.example/")


async def test_names_that_are_never_resolved_hold_nothing_else_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = threading.Event()

    def hang(*args: object, **options: object) -> list[object]:
        ends.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    outbound = Outbound(timeout_s=0.01)
    try:
        for _ in range(50):
            with pytest.raises(OutboundError, match=r"did not answer within 0\.01 s"):
                await outbound.post("http://hangs.example/", b"", {})
        with pytest.raises(OutboundError, match=r"not resolved within 0\.01 s") as refused:
            await outbound.check("http://hangs.example/")
        assert refused.value.param == "url"
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(lambda: "at once") == "at once"
    finally:
        ends.set()


@pytest.mark.parametrize(
    ("url", "goes_to", "host", "sni"),
    [
        ("https://ci.example/a?b=c", f"https://{PUBLIC}/a?b=c", "ci.example", "ci.example"),
        ("http://ci.example:8080/", f"http://{PUBLIC}:8080/", "ci.example:8080", "ci.example"),
        ("https://CI.example", f"https://{PUBLIC}", "ci.example", "ci.example"),
        ("http://xn--bcher-kva.example/", f"http://{PUBLIC}/", *["xn--bcher-kva.example"] * 2),
    ],
)
async def test_a_request_goes_to_the_address_that_was_checked_and_names_the_host(
    url: str, goes_to: str, host: str, sni: str
) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, stream=Endless(1))

    asked: list[tuple[str, int]] = []

    async def resolve(name: str, port: int) -> list[str]:
        asked.append((name, port))
        return [PUBLIC, "93.184.216.35"]

    outbound = Outbound(transport=answering(answer), resolve=resolve)
    assert await outbound.post(url, b"{}", {"X-A": "b"}) == 202
    (request,) = seen
    assert len(asked) == 1
    assert request.url == httpx.URL(goes_to)
    assert (request.method, request.content) == ("POST", b"{}")
    assert (request.headers["host"], request.headers["x-a"]) == (host, "b")
    assert request.extensions["sni_hostname"] == sni


async def test_an_ipv6_address_is_reached_in_brackets() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, stream=Endless(1))

    public = "2606:2800:220:1:248:1893:25c8:1946"
    outbound = Outbound(transport=answering(answer), resolve=resolving(public))
    await outbound.post("http://six.example/x", b"", {})
    assert seen == [f"http://[{public}]/x"]


class Endless(httpx.AsyncByteStream):
    """A body of so many parts of 1024 bytes, and whether it was closed."""

    def __init__(self, parts: int) -> None:
        self.parts, self.read, self.closed = parts, 0, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.read < self.parts:
            self.read += 1
            yield b"x" * 1024

    async def aclose(self) -> None:
        self.closed = True


async def test_an_answer_without_end_is_left() -> None:
    body = Endless(10**9)
    outbound = Outbound(
        transport=answering(lambda _: httpx.Response(200, stream=body)), resolve=resolving(PUBLIC)
    )
    assert await outbound.post("http://ci.example/", b"", {}) == 200
    assert body.read == MAX_ANSWER_BYTES // 1024 + 1
    assert body.closed


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(302, headers={"Location": "http://127.0.0.1/"}, stream=Endless(0))

    outbound = Outbound(transport=answering(answer), resolve=resolving(PUBLIC))
    assert await outbound.post("http://ci.example/", b"", {}) == 302
    assert len(seen) == 1


@pytest.mark.parametrize(
    "failure",
    [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), OSError("no route"), TimeoutError()],
)
async def test_what_cannot_be_reached_is_an_error_that_names_the_host(failure: Exception) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise failure

    outbound = Outbound(transport=answering(fail), resolve=resolving(PUBLIC))
    with pytest.raises(OutboundError, match=r"ci\.example") as failed:
        await outbound.post("http://ci.example/", b"", {})
    assert failed.value.retryable


async def test_a_receiver_that_never_answers_is_given_up() -> None:
    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await asyncio.Event().wait()
            raise AssertionError

    outbound = Outbound(transport=Silent(), resolve=resolving(PUBLIC), timeout_s=0.01)
    with pytest.raises(OutboundError, match=r"within 0\.01 s"):
        await outbound.post("http://ci.example/", b"", {})
    await outbound.close()


async def test_private_addresses_are_open_where_that_is_allowed() -> None:
    outbound = Outbound(allow_private=True)
    await outbound.check("http://127.0.0.1:9/")
    with pytest.raises(LlmosError):
        await outbound.check("http://user@127.0.0.1:9/")


def test_public_addresses_are_those_that_python_calls_global_and_some_less() -> None:
    samples = [f"{first}.{second}.3.4" for first in range(256) for second in (0, 18, 64, 88, 168)]
    samples += [f"{first:x}::1" for first in range(0, 0x10000, 97)]
    for text in samples:
        if is_public(text):
            address = ipaddress.ip_address(text)
            assert address.is_global, text
            assert not address.is_multicast, text
    for text in (PUBLIC, "8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1"):
        assert is_public(text)
    assert is_public("::ffff:8.8.8.8")
    assert is_public("64:ff9b::8.8.8.8")


def test_a_url_is_read_once_and_for_all() -> None:
    assert parse_url("https://Example.COM:8443/a%20b?c=d").host == "example.com"


@pytest.mark.parametrize("url", WRITTEN_PRIVATELY)
async def test_nothing_is_asked_of_a_private_address(url: str) -> None:
    outbound = Outbound(transport=answering(refuse))
    with pytest.raises((InvalidRequestError, OutboundError)):
        async with outbound.follow(url, {}):
            raise AssertionError("it was asked")


async def body_of(received: Received) -> bytes:
    return b"".join([part async for part in received.parts])


async def test_an_answer_is_given_as_it_comes() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(404, headers={"X-A": "b"}, stream=Endless(3))

    outbound = Outbound(transport=answering(answer), resolve=resolving(PUBLIC))
    async with outbound.get("https://x.example/a?b", {"Range": "bytes=5-"}) as received:
        assert (received.status, received.headers["x-a"]) == (404, "b")
        assert len(await body_of(received)) == 3072
    (request,) = seen
    assert (request.method, str(request.url)) == ("GET", f"https://{PUBLIC}/a?b")
    assert request.headers["host"] == "x.example" and request.headers["range"] == "bytes=5-"
    assert "content-length" not in request.headers


async def test_a_body_that_is_left_is_closed() -> None:
    body = Endless(10**9)
    outbound = Outbound(
        transport=answering(lambda _: httpx.Response(200, stream=body)), resolve=resolving(PUBLIC)
    )
    async with outbound.get("http://x.example/", {}) as received:
        await anext(received.parts)
    assert body.closed and body.read == 1


def moving(moves: dict[str, str]) -> httpx.MockTransport:
    """Redirects from each URL, of whatever host, to another."""

    def answer(request: httpx.Request) -> httpx.Response:
        url = f"{request.url.scheme}://{request.headers['host']}{request.url.raw_path.decode()}"
        if url in moves:
            return httpx.Response(302, headers={"Location": moves[url]}, stream=Endless(0))
        return httpx.Response(200, stream=Endless(1))

    return answering(answer)


async def test_a_redirect_is_followed_by_the_same_rules() -> None:
    moves = {"http://a.example/x": "/y#part", "http://a.example/y": "https://b.example/z"}
    outbound = Outbound(transport=moving(moves), resolve=resolving(PUBLIC))
    async with outbound.follow("http://a.example/x", {}) as received:
        assert (received.url, received.status) == ("https://b.example/z", 200)
        assert received.target() is None


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1/",
        "http://169.254.169.254/latest/",
        "//[::1]/",
        "http://user:pass@a.example/",
        "file:///etc/passwd",
    ],
)
async def test_a_redirect_leads_to_nothing_that_may_not_be_asked(target: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return [PUBLIC] if host == "a.example" else [host.strip("[]")]

    outbound = Outbound(transport=moving({"http://a.example/": target}), resolve=resolve)
    with pytest.raises(InvalidRequestError):
        async with outbound.follow("http://a.example/", {}):
            raise AssertionError("it was asked")


@pytest.mark.parametrize(
    ("moves", "said"),
    [
        ({"https://a.example/": "http://a.example/"}, "from https to http"),
        ({"https://a.example/": "https://a.example/"}, "more than 10 times"),
        ({"https://a.example/": "https://a.example:port/"}, "no URL"),
    ],
)
async def test_a_redirect_without_end_or_away_from_encryption_is_an_error(
    moves: dict[str, str], said: str
) -> None:
    outbound = Outbound(transport=moving(moves), resolve=resolving(PUBLIC))
    with pytest.raises(OutboundError, match=said):
        async with outbound.follow("https://a.example/", {}):
            pass


async def test_a_body_that_breaks_off_says_so() -> None:
    class Breaks(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"x"
            raise httpx.ReadError("gone")

    outbound = Outbound(
        transport=answering(lambda _: httpx.Response(200, stream=Breaks())),
        resolve=resolving(PUBLIC),
    )
    with pytest.raises(OutboundError, match=r"x\.example cannot be reached: gone"):
        async with outbound.get("http://x.example/", {}) as received:
            await body_of(received)
