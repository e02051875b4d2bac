"""Browser guards: pure checks of Host, Origin and Sec-Fetch-Site.

They keep a web page someone visits from reaching a local server, by DNS rebinding (Host) or by
cross-site requests (Origin, Sec-Fetch-Site). The server's middleware calls them on every request.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from llmos.errors import PermissionDeniedError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?\.?)(?::([0-9]{1,5}))?")
_DEFAULT_PORT = {"http": "80", "https": "443"}
_EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::", "[::]"})  # noqa: S104 - compared, never bound


def allowed_hosts(bind_host: str, extra: str) -> frozenset[str]:
    """Return the Host names a server bound to ``bind_host`` answers to.

    Args:
        bind_host: the address listened on; one that means "every address" adds no name.
        extra: more names, comma-separated (the setting ``allowed_hosts``).
    """
    names = {name.strip().lower().rstrip(".") for name in extra.split(",") if name.strip()}
    if bind_host not in _EVERY_ADDRESS:
        bare = bind_host.lower()
        names.add(f"[{bare}]" if ":" in bare and not bare.startswith("[") else bare)
    return LOOPBACK_HOSTS | names


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(host: str | None, allowed: Collection[str]) -> None:
    """Pass silently when the Host header names this server.

    Args:
        host: the header's value, ``name[:port]``; None when it was not sent.
        allowed: names without port, lower case, IPv6 in brackets.

    Raises:
        PermissionDeniedError: the header is missing, malformed or names another host.
    """
    name = _split(host or "")[0]
    if name not in allowed:
        raise PermissionDeniedError(
            f"Host {(host or '')[:100]!r} is not served here: "
            "use http://127.0.0.1, or add the name to the setting allowed_hosts"
        )


def check_origin(
    method: str,
    origin: str | None,
    sec_fetch_site: str | None,
    host: str | None,
    *,
    has_cookie: bool = False,
    websocket: bool = False,
) -> None:
    """Pass silently unless another site's page may be behind an unsafe request.

    Programs (no Origin, no Sec-Fetch-Site, no cookie) pass; pages pass only from this very origin.

    Args:
        method: the HTTP method; safe ones pass, since no answer is readable across origins.
        origin, sec_fetch_site, host: header values, None when not sent.
        has_cookie: whether the request carries a cookie, which only browsers do.
        websocket: whether it is an upgrade, which is never safe.

    Raises:
        PermissionDeniedError: the request comes, or may come, from another site.
    """
    if method.upper() in SAFE_METHODS and not websocket:
        return
    if sec_fetch_site is not None and sec_fetch_site.lower() not in {"same-origin", "none"}:
        raise PermissionDeniedError("requests from other web sites are refused (Sec-Fetch-Site)")
    if origin is not None and not _same_origin(origin, host or ""):
        raise PermissionDeniedError("requests from other web sites are refused (Origin)")
    if has_cookie and origin is None and sec_fetch_site is None:
        raise PermissionDeniedError("a request with a cookie must say its Origin")


def _same_origin(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return False
    if parts.scheme not in _DEFAULT_PORT or parts.path or parts.query or parts.fragment:
        return False
    default = _DEFAULT_PORT[parts.scheme]
    origin_name, origin_port = _split(parts.netloc)
    name, port = _split(host)
    return bool(name) and (name, port or default) == (origin_name, origin_port or default)


def _split(host: str) -> tuple[str, str]:
    """Return (name, port) of ``name[:port]``; ("", "") when malformed."""
    match = _HOST.fullmatch(host.lower())
    return (match[1].rstrip("."), match[2] or "") if match else ("", "")
