"""A file of the web as a dataset: fetched once, gone on with, refused where it should be."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from tests.siteserver import Reply, Request, Site
from tests.unit.data.data_jobs import only
from tests.unit.data.fetching.conftest import Fetching

from llmos.data.datasets import adding, jobs
from llmos.data.fetching import web
from llmos.data.fetching.web import file_name
from llmos.errors import (
    CancelledError,
    DataError,
    DiskFullError,
    ForbiddenAddressError,
    InvalidRequestError,
    OutboundError,
)

ROWS = b"".join(b'{"text": "row %d \xe7\xac\xac", "n": %d}\n' % (n, n) for n in range(20_000))
KIND = "application/octet-stream"


def file(site: Site, path: str, body: bytes = ROWS, tag: str = '"v1"', **more: Any) -> list[int]:
    """Serve a file with ranges, and break connections off after so many bytes: the list."""
    cuts: list[int] = []

    def answer(request: Request) -> Reply:
        cut = cuts.pop(0) if cuts else None
        headers = {"ETag": tag} if tag else {}
        asked = request.headers.get("range")
        if asked and tag and request.headers.get("if-range") == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return Reply(b"", 416, KIND)
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return Reply(body[start:], 206, KIND, headers, cut)
        return Reply(body, 200, KIND, headers, cut)

    site.pages[path] = answer
    return cuts


def ranges(site: Site) -> list[str | None]:
    return [one.headers.get("range") for one in site.requests]


def test_a_server_that_drips_is_given_up(
    home: Fetching, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady, dripping, late = web.Pace(), web.Pace(), web.Pace()
    assert not any(steady.is_slow(1.0, 2**11) for _ in range(600))
    assert [dripping.is_slow(10.0, 1) for _ in range(6)] == [False] * 5 + [True]
    assert not late.is_slow(59.0, 2**16) and not late.is_slow(5.0, 1)
    assert late.is_slow(61.0, 2**15)
    monkeypatch.setattr(web, "SLOW_S", 0.0)
    file(site, "/rows.jsonl", b'{"text": "x"}')
    with pytest.raises(DataError, match="is sent too slowly, under 64 KB"):
        home.fetch(f"{site.url}/rows.jsonl")


def test_a_file_becomes_a_dataset_that_says_where_it_is_from(home: Fetching, site: Site) -> None:
    file(site, "/data/rows.jsonl?key=secret")
    version = only(home.fetch(f"{site.url}/data/rows.jsonl?key=secret", license="CC0-1.0"))
    assert version.manifest["rows"] == 20_000
    source = version.manifest["source"]
    assert source["from"] == source["url"] == f"{site.url}/data/rows.jsonl"
    assert source["files"][0]["name"] == "rows.jsonl"
    assert "secret" not in json.dumps(version.manifest)
    assert version.inputs == (source["files"][0]["digest"],)
    rows = home.rows(version)
    assert rows[0] == {"id": "rows.jsonl:1", "text": "row 0 第", "n": 0}
    agent = site.requests[0].headers["user-agent"]
    assert agent.startswith("llmos") and "authorization" not in site.requests[0].headers


def test_a_transfer_that_breaks_off_goes_on_where_it_was(home: Fetching, site: Site) -> None:
    cuts = file(site, "/rows.jsonl")
    cuts += [300_000, 200_000]
    assert only(home.fetch(f"{site.url}/rows.jsonl")).manifest["rows"] == 20_000
    first, second, third = ranges(site)
    assert first is None and second == "bytes=300000-" and third == "bytes=500000-"
    assert any("broke off at" in line for line in home.logged())


def test_a_job_that_is_killed_goes_on_and_then_asks_no_more(
    home: Fetching, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = file(site, "/rows.jsonl")
    cuts += [100_000, 0]
    with pytest.raises(OutboundError) as broken:
        home.fetch(f"{site.url}/rows.jsonl", checkpoint="shared")
    assert broken.value.retryable
    assert (home.root / "shared" / web.PART).stat().st_size == 100_000

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adding, "_groups", killed)
        with pytest.raises(KeyboardInterrupt):
            home.fetch(f"{site.url}/rows.jsonl", checkpoint="shared")
    assert ranges(site) == [None, "bytes=100000-", "bytes=100000-"]
    assert only(home.fetch(f"{site.url}/rows.jsonl", "shared")).manifest["rows"] == 20_000
    assert len(site.requests) == 3, "what is here is not fetched again"
    blobs = home.context({}).blobs
    blobs.sweep(set(), older_than=-1.0, now=2e10)
    assert only(home.fetch(f"{site.url}/rows.jsonl", "shared")).manifest["rows"] == 20_000
    assert len(site.requests) == 4, "what was swept is"


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_version_of_the_file_it_is_fetched_anew(
    home: Fetching, site: Site, tag: str
) -> None:
    cuts = file(site, "/rows.jsonl", tag=tag)
    cuts += [100_000]
    assert only(home.fetch(f"{site.url}/rows.jsonl")).manifest["rows"] == 20_000
    assert ranges(site) == [None, None]


def test_a_file_that_changed_meanwhile_is_fetched_anew(home: Fetching, site: Site) -> None:
    cuts = file(site, "/rows.jsonl")
    cuts += [100_000, 0]
    with pytest.raises(OutboundError):
        home.fetch(f"{site.url}/rows.jsonl", checkpoint="shared")
    file(site, "/rows.jsonl", b'{"text": "new"}\n', '"v2"')
    assert home.rows(only(home.fetch(f"{site.url}/rows.jsonl", "shared")))[0]["text"] == "new"


def test_a_server_that_cuts_again_and_again_is_given_up(home: Fetching, site: Site) -> None:
    cuts = file(site, "/rows.jsonl", tag="")
    cuts += [100_000] * 9
    with pytest.raises(OutboundError):
        home.fetch(f"{site.url}/rows.jsonl")
    assert len(site.requests) == 2


def test_a_part_that_was_whole_is_no_obstacle(home: Fetching, site: Site) -> None:
    file(site, "/rows.jsonl")
    folder = home.root / "shared"
    folder.mkdir()
    (folder / web.PART).write_bytes(ROWS)
    (folder / web.TAG).write_text('{"version": "\\"v1\\"", "shown": "rows.jsonl"}')
    with pytest.raises(OutboundError, match="fetched anew"):
        home.fetch(f"{site.url}/rows.jsonl", "shared")
    assert only(home.fetch(f"{site.url}/rows.jsonl", "shared")).manifest["rows"] == 20_000


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (Reply(status=404), DataError, "does not exist"),
        (Reply(status=403), DataError, "sends no password"),
        (Reply(status=503), OutboundError, "now .HTTP 503"),
        (Reply(status=204), DataError, "HTTP 204"),
        (Reply(b"x", kind="image/png"), DataError, "what it holds is not known"),
        (Reply(b"x", headers={"Content-Encoding": "gzip"}, kind="text/csv"), DataError, "compress"),
        (Reply(status=302, headers={"Location": "/thing"}), OutboundError, "more than 10"),
        (Reply(b"", kind="text/csv"), DataError, "hold no rows"),
    ],
)
def test_what_cannot_be_had_is_a_clear_error(
    home: Fetching, site: Site, reply: Reply, error: type[Exception], said: str
) -> None:
    site.pages["/thing"] = reply
    with pytest.raises(error, match=said):
        home.fetch(f"{site.url}/thing")


def test_this_network_is_closed_unless_it_is_opened(
    home: Fetching, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMOS_ALLOW_PRIVATE_WEBHOOKS")
    with pytest.raises(ForbiddenAddressError, match="LLMOS_ALLOW_PRIVATE_WEBHOOKS=1"):
        home.fetch(f"{site.url}/rows.jsonl")
    assert site.requests == []


def test_a_file_over_the_limit_is_not_taken(
    home: Fetching, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOS_MAX_UPLOAD_BYTES", "100000")
    file(site, "/rows.jsonl")
    with pytest.raises(DataError, match="max_upload_bytes"):
        home.fetch(f"{site.url}/rows.jsonl")
    chunks = b"".join(b"1000\r\n" + b"x" * 4096 + b"\r\n" for _ in range(100)) + b"0\r\n\r\n"
    headers = {"Transfer-Encoding": "chunked"}
    site.pages["/endless.txt"] = Reply(chunks, kind="text/plain", headers=headers)
    with pytest.raises(DataError, match="over the limit"):
        home.fetch(f"{site.url}/endless.txt")


def test_a_full_disk_is_told_before_it_is(
    home: Fetching, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    file(site, "/rows.jsonl")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(web.shutil, "disk_usage", lambda _: usage(10, 0, 10))
    with pytest.raises(DiskFullError, match="free some space"):
        home.fetch(f"{site.url}/rows.jsonl")


def test_a_cancelled_job_keeps_what_came(home: Fetching, site: Site) -> None:
    file(site, "/rows.jsonl")
    context = home.context(jobs.check_add({"name": "x", "url": f"{site.url}/rows.jsonl"}))
    context.leave()
    with pytest.raises(CancelledError):
        adding.run(context)
    assert (context.checkpoint_dir / web.TAG).exists()


def named(told: str) -> dict[str, str]:
    return {"content-disposition": f"attachment; {told}"}


@pytest.mark.parametrize(
    ("url", "headers", "kind", "given", "name"),
    [
        ("https://x.example/a/b.csv?x", {}, "", None, "b.csv"),
        ("https://x.example/a%2Fb%20c.CSV", {}, "", None, "b c.CSV"),
        ("https://x.example/", {}, "text/csv", None, "file.csv"),
        ("https://x.example/export", {}, "application/x-ndjson", None, "export.jsonl"),
        ("https://x.example/export", {}, "text/csv", "jsonl", "export"),
        ("https://x.example/d", named("filename=\"x.tsv\""), "", None, "x.tsv"),
        ("https://x.example/d", named("filename=\"../../etc/.p.txt\""), "", None, "p.txt"),
        ("https://x.example/d", named("filename*=UTF-8''%E6%96%87.txt"), "", None, "文.txt"),
        ("https://x.example/..", {}, "text/plain", None, "file.txt"),
    ],
)  # fmt: skip
def test_a_file_has_a_plain_name(
    url: str, headers: dict[str, str], kind: str, given: str | None, name: str
) -> None:
    assert file_name(url, headers, kind, given) == name
    assert Path(name).name == name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "ftp://x.example/a.csv"}, "url must begin with"),
        ({"url": "sqlite:///etc/passwd"}, "llmos data add --sql"),
        ({"url": "file:///etc/passwd"}, "url must begin with"),
        ({"url": "/etc/passwd"}, "url must begin with"),
        ({"url": "https://user:pass@x.example/a.csv"}, "no user and no password"),
        ({"url": "https://x.example/a.csv", "files": {"a.txt": "sha256:" + "0" * 64}}, "not both"),
        ({"url": "hf://owner"}, "must be hf://OWNER/NAME"),
        ({"url": "hf://owner/name/a/b/c"}, "must be hf://OWNER/NAME"),
        ({"url": "hf://owner/na..me"}, "must be hf://OWNER/NAME"),
        ({"url": "s3://x"}, "must be s3://BUCKET/KEY"),
        ({"url": "s3://bucket/../other"}, "a key has no"),
        ({"url": "s3://bucket/*"}, "a key has no"),
        ({"url": "feedback:helper@latest"}, "an alias is neither"),
        ({"url": "feedback:helper"}, "files must map"),
        ({"url": "https://x.example/a.csv", "reads": "all"}, "reads must be one of"),
        ({}, "files must map"),
    ],
)
def test_a_wrong_source_is_refused_at_once(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        jobs.check_add({"name": "x", **changes})


@pytest.mark.parametrize(
    "url", ["https://x.example/a.csv", "hf://owner/name@v1/en/train", "s3://bucket/a/"]
)
def test_what_was_checked_may_be_checked_again(url: str) -> None:
    checked = jobs.check_add({"name": "x", "url": url})
    assert jobs.check_add(checked) == checked
    assert checked["source"] == url and checked["files"] == {}
