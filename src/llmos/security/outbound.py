"""The one way in which llmos asks an address that a user named: never one inside its own network.

A name is resolved once, every address it has is checked, and the connection goes to the one that
was checked. A redirect is an answer: `follow` asks its target anew, by the same rules. No proxy is
used, nothing is kept.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urldefrag

import httpx

from llmos.errors import ForbiddenAddressError, InvalidRequestError, LlmosError, OutboundError

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""``resolve(host, port)`` returns every address of a host; raises OSError when it has none."""

MAX_URL_CHARS = 2000
TIMEOUT_S = 15.0
"""For everything that one request takes."""
CONNECT_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 65_536
MAX_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LOOKUPS = ThreadPoolExecutor(32, thread_name_prefix="llmos-dns")
"""For names that users chose, alone: a lookup that is never answered takes its thread for longer
than anyone waits for it."""
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_.])?")
_WRITTEN = re.compile(r"[!-\[\]-~]+")
"""Visible ASCII but the backslash, which some take for a slash."""

REFUSED_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carriers' own
            "127.0.0.0/8",  # this machine
            "169.254.0.0/16",  # link-local, where clouds keep their metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays to IPv6
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
"""The special blocks of RFC 6890 and its registry."""
GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
"""What is given out; all else is local, multicast, reserved or made of an IPv4 address."""
REFUSED_V6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: an IPv4 address inside
            "3fff::/20",  # documentation
        ),
    )
)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Received:
    """The beginning of an answer, whose body is still to come.

    Attributes:
        url: what was asked for, without a fragment.
        parts: the body as it comes, not decompressed; raises OutboundError where it breaks off, or
            nothing comes for TIMEOUT_S.
    """

    url: str
    status: int
    headers: httpx.Headers
    parts: AsyncIterator[bytes]

    def target(self) -> str | None:
        """Return where a redirect leads, None for another answer.

        Raises:
            OutboundError: to nowhere that can be asked.
        """
        if self.status not in REDIRECTS or "location" not in self.headers:
            return None
        try:
            joined = httpx.URL(self.url).join(self.headers["location"].strip())
        except (httpx.InvalidURL, ValueError):
            raise OutboundError(f"{_shown(self.url)} redirects to what is no URL") from None
        return urldefrag(str(joined)).url


class Outbound:
    """Sends requests to addresses that users name.

    Args:
        allow_private: private addresses too, for receivers in one's own network.
        resolve: the system's resolver unless given.
        transport: carries one request to its address; connections are not kept, as one made for a
            name must not serve another name at the same address.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        resolve: Resolve | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._allow_private = allow_private
        self._resolve = resolve or _resolve
        self._transport = transport
        self._timeout_s = timeout_s

    async def check(self, url: str) -> None:
        """Pass silently when llmos would send something to ``url`` now.

        Raises:
            InvalidRequestError: it is no http or https URL, or has what such a one must not have.
            ForbiddenAddressError: its host is, or resolves to, an address that is not public.
            OutboundError: its host cannot be resolved, or not in time.
        """
        target = parse_url(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._address(target)
        except TimeoutError:
            text = f"the host {_host(target)!r} was not resolved within {self._timeout_s:g} s"
            raise OutboundError(text, param="url") from None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send ``body`` and return the status of the answer, which is read no further.

        Raises:
            InvalidRequestError, ForbiddenAddressError: as `check`.
            OutboundError: it cannot be reached, or takes too long.
        """
        target = parse_url(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                address = await self._address(target)
                return await self._send(_pinned("POST", target, address, body, headers))
        except TimeoutError:
            text = f"{_host(target)} did not answer within {self._timeout_s:g} s"
            raise OutboundError(text) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _unreachable(target, error) from error

    @asynccontextmanager
    async def get(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[Received]:
        """Ask for ``url`` and give the answer, whatever its status, its body not read yet.

        Raises:
            InvalidRequestError, ForbiddenAddressError: as `check`.
            OutboundError: it cannot be reached, or does not begin to answer in time.
        """
        target = parse_url(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                address = await self._address(target)
                request = _pinned("GET", target, address, b"", headers)
                response = await self._carrier().handle_async_request(request)
        except TimeoutError:
            text = f"{_host(target)} did not answer within {self._timeout_s:g} s"
            raise OutboundError(text) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _unreachable(target, error) from error
        try:
            yield Received(url, response.status_code, response.headers, _parts(target, response))
        finally:
            await response.aclose()

    @asynccontextmanager
    async def follow(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[Received]:
        """As `get`, after at most MAX_REDIRECTS redirects, none of them from https to http.

        Raises:
            OutboundError: there are more, or one leads away from encryption.
        """
        asked = url
        for _ in range(MAX_REDIRECTS + 1):
            async with self.get(asked, headers) as received:
                target = received.target()
                if target is None:
                    yield received
                    return
            if asked.lower().startswith("https:") and not target.startswith("https:"):
                raise OutboundError(f"{_shown(url)} redirects from https to {_shown(target)}")
            asked = target
        raise OutboundError(f"{_shown(url)} redirects more than {MAX_REDIRECTS} times")

    async def close(self) -> None:
        """Close the connections."""
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    def _carrier(self) -> httpx.AsyncBaseTransport:
        if self._transport is None:
            self._transport = httpx.AsyncHTTPTransport(
                verify=ssl.create_default_context(),
                trust_env=False,
                limits=httpx.Limits(max_keepalive_connections=0),
            )
        return self._transport

    async def _send(self, request: httpx.Request) -> int:
        response = await self._carrier().handle_async_request(request)
        try:
            assert isinstance(response.stream, httpx.AsyncByteStream)
            num_bytes = 0
            async for part in response.stream:
                num_bytes += len(part)
                if num_bytes > MAX_ANSWER_BYTES:
                    break
        finally:
            await response.aclose()
        return response.status_code

    async def _address(self, target: httpx.URL) -> str:
        """Return the address to connect to. All that the host has must be fit for it."""
        host = _host(target)
        try:
            addresses = await self._resolve(host, _port(target))
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise OutboundError(f"the host {host!r} cannot be resolved", param="url")
        if not self._allow_private and not all(map(is_public, addresses)):
            raise ForbiddenAddressError(
                f"{host} is not, or not only, a public address: llmos sends nothing into its own "
                "network unless it is started with LLMOS_ALLOW_PRIVATE_WEBHOOKS=1",
                param="url",
            )
        return addresses[0]


def parse_url(url: str) -> httpx.URL:
    """Return an http or https URL as its parts.

    Raises:
        InvalidRequestError: it is none; or has a user, a password, a fragment, a port beyond
            65535, a character that is not visible ASCII, or a backslash.
    """
    if not 0 < len(url) <= MAX_URL_CHARS or not _WRITTEN.fullmatch(url):
        raise _refused(f"has to be 1 to {MAX_URL_CHARS} visible ASCII characters, no backslash")
    try:
        target = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise _refused(f"cannot be read: {error}") from None
    if target.scheme not in ("http", "https"):
        raise _refused("begins with http:// or https://")
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise _refused("has no user and no password")
    if "#" in url:
        raise _refused("has no fragment")
    if not _is_host(_host(target)):
        raise _refused(f"has a host, which {_host(target)[:80]!r} cannot be")
    if not 0 < _port(target) < 65536:
        raise _refused("has a port from 1 to 65535, if any")
    return target


def is_public(address: str) -> bool:
    """Whether an address, as text, is one of the public internet.

    IPv4 addresses inside IPv6 ones count as what they are: mapped, and of the prefix for NAT64.
    """
    try:
        parsed: IPv4Address | IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        inner = IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in NAT64 else parsed.ipv4_mapped
        if inner is None:
            return parsed in GLOBAL_V6 and not any(parsed in network for network in REFUSED_V6)
        parsed = inner
    return not any(parsed in network for network in REFUSED_V4)


def _pinned(
    method: str, target: httpx.URL, address: str, body: bytes, headers: Mapping[str, str]
) -> httpx.Request:
    """Return a request that goes to ``address`` and speaks, and checks, the name of the host."""
    timeouts = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S).as_dict()
    return httpx.Request(
        method,
        target.copy_with(host=address),
        content=body,
        headers={**headers, "Host": target.netloc.decode("ascii"), "Accept-Encoding": "identity"},
        extensions={"sni_hostname": _host(target), "timeout": timeouts},
    )


async def _parts(target: httpx.URL, response: httpx.Response) -> AsyncIterator[bytes]:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        async for part in response.stream:
            yield part
    except (httpx.HTTPError, OSError) as error:
        raise _unreachable(target, error) from error


def _unreachable(target: httpx.URL, error: Exception) -> OutboundError:
    reason = str(error) or type(error).__name__
    return OutboundError(f"{_host(target)} cannot be reached: {reason[:200]}")


def _shown(url: str) -> str:
    """Return a URL for a message, without what may be secret in it."""
    return url.partition("?")[0][:200]


def _host(target: httpx.URL) -> str:
    """Return the host as it is asked for: not httpx's, which turns punycode into letters."""
    return target.raw_host.decode("ascii")


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host).scope_id is None
        except ValueError:
            return False
    return len(host) <= 253 and _HOST.fullmatch(host) is not None


def _port(target: httpx.URL) -> int:
    if target.port is not None:
        return target.port
    return 443 if target.scheme == "https" else 80


async def _resolve(host: str, port: int) -> list[str]:
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, look_up)
    return [str(address[4][0]) for address in found]


def _refused(text: str) -> LlmosError:
    return InvalidRequestError(f"The URL {text}.", param="url")
