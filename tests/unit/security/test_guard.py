"""Browser guards: Host allowlist, Origin and Sec-Fetch-Site, over methods and evil values."""

from __future__ import annotations

import pytest

from llmos.errors import PermissionDeniedError
from llmos.security.guard import LOOPBACK_HOSTS, allowed_hosts, check_host, check_origin

HOST = "127.0.0.1:8642"
UNSAFE = ["POST", "PUT", "PATCH", "DELETE", "CONNECT", "TRACE", "post", "BREW"]
SAFE = ["GET", "HEAD", "OPTIONS"]
EVIL_HOSTS = [
    None,
    "",
    "evil.example",
    "evil.example:8642",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.example#127.0.0.1",
    "127.0.0.1@evil.example",
    "evil.example/127.0.0.1",
    "127.0.0.1:8642:evil",
    "127.0.0.1:",
    "127.0.0.1:x",
    "127.0.0.1\n",
    " 127.0.0.1",
    "localhost,evil.example",
    "0.0.0.0",
    "[::]",
    "::1",
    "127.1",
    "2130706433",
    "ｌocalhost",
]
EVIL_ORIGINS = [
    "null",
    "",
    "http://evil.example",
    "https://evil.example:8642",
    "http://127.0.0.1",
    "http://127.0.0.1:3000",
    "https://127.0.0.1",
    "http://localhost:8642",
    "http://127.0.0.1:8642@evil.example",
    "http://127.0.0.1:8642.evil.example",
    "http://127.0.0.1:8642/",
    "file://",
    "chrome-extension://abc",
    "http://[::1",
    "127.0.0.1:8642",
]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", HOST, "localhost:8642", "LOCALHOST", "localhost.", "[::1]:8642"]
)
def test_loopback_names_are_served(host: str) -> None:
    check_host(host, LOOPBACK_HOSTS)


@pytest.mark.parametrize("host", EVIL_HOSTS)
def test_any_other_host_is_refused(host: str | None) -> None:
    with pytest.raises(PermissionDeniedError, match="is not served here"):
        check_host(host, LOOPBACK_HOSTS)


def test_allowed_hosts_adds_the_bound_name_and_the_settings() -> None:
    assert allowed_hosts("127.0.0.1", "") == LOOPBACK_HOSTS
    assert allowed_hosts("0.0.0.0", "") == LOOPBACK_HOSTS
    assert allowed_hosts("::", "") == LOOPBACK_HOSTS
    assert allowed_hosts("192.168.1.5", "") == LOOPBACK_HOSTS | {"192.168.1.5"}
    assert allowed_hosts("fe80::1", " Llm.Example. ,b") == LOOPBACK_HOSTS | {
        "[fe80::1]",
        "llm.example",
        "b",
    }
    check_host("LLM.example:443", allowed_hosts("0.0.0.0", "llm.example"))


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize("origin", EVIL_ORIGINS)
def test_another_origin_is_refused_on_every_unsafe_method(method: str, origin: str) -> None:
    with pytest.raises(PermissionDeniedError, match="Origin"):
        check_origin(method, origin, None, HOST)


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "CROSS-SITE", "weird"])
def test_another_site_is_refused_on_every_unsafe_method(method: str, site: str) -> None:
    with pytest.raises(PermissionDeniedError, match="Sec-Fetch-Site"):
        check_origin(method, None, site, HOST)
    with pytest.raises(PermissionDeniedError):
        check_origin(method, f"http://{HOST}", site, HOST)


@pytest.mark.parametrize("method", UNSAFE)
def test_a_cookie_without_an_origin_is_refused(method: str) -> None:
    with pytest.raises(PermissionDeniedError, match="cookie"):
        check_origin(method, None, None, HOST, has_cookie=True)


@pytest.mark.parametrize("method", UNSAFE + SAFE)
def test_a_program_and_the_own_page_pass(method: str) -> None:
    check_origin(method, None, None, HOST)
    check_origin(method, f"http://{HOST}", "same-origin", HOST, has_cookie=True)
    check_origin(method, f"HTTP://{HOST}", None, HOST)
    check_origin(method, "https://llm.example", None, "llm.example")
    check_origin(method, "https://llm.example", None, "llm.example:443")
    check_origin(method, None, "none", HOST)


@pytest.mark.parametrize("method", SAFE)
def test_safe_methods_pass_but_not_as_websockets(method: str) -> None:
    check_origin(method, "http://evil.example", "cross-site", HOST)
    with pytest.raises(PermissionDeniedError):
        check_origin(method, "http://evil.example", None, HOST, websocket=True)


def test_no_host_matches_no_origin() -> None:
    with pytest.raises(PermissionDeniedError):
        check_origin("POST", "http://", None, None)
