"""Objects of S3, as moto's server on this machine has them, read where it was allowed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.data.data_jobs import only
from tests.unit.data.fetching.conftest import Fetching

from llmos.data.fetching import bucket
from llmos.data.fetching.bucket import check_allowed
from llmos.data.fetching.sources import BucketSource, bucket_source
from llmos.errors import CancelledError, DataError, OutboundError, PermissionDeniedError

ROWS = b"".join(b'{"text": "row %d \xe7\xac\xac"}\n' % n for n in range(3000))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(botocore|aiobotocore|moto)")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a store with one bucket, which the server may read."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "LLMOS_S3_BUCKETS": "corpora, shared/open/",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="corpora")
    yield client
    for one in client.list_objects_v2(Bucket="corpora").get("Contents", ()):
        client.delete_object(Bucket="corpora", Key=one["Key"])
    client.delete_bucket(Bucket="corpora")
    client.close()


def test_an_object_becomes_a_dataset(home: Fetching, s3: Any) -> None:
    s3.put_object(Bucket="corpora", Key="news/rows.jsonl", Body=ROWS)
    version = only(home.fetch("s3://corpora/news/rows.jsonl"))
    assert version.manifest["rows"] == 3000
    source = version.manifest["source"]
    assert source["from"] == source["url"] == "s3://corpora/news/rows.jsonl"
    assert home.rows(version)[0]["id"] == "rows.jsonl:1"


@pytest.mark.parametrize("url", ["s3://corpora/news/", "s3://corpora/news"])
def test_all_data_files_below_a_prefix_do(home: Fetching, s3: Any, url: str) -> None:
    for key in ("news/b.jsonl", "news/a/c.txt", "news/_SUCCESS", "news/x.bin", "newsreel/d.txt"):
        s3.put_object(Bucket="corpora", Key=key, Body=b'{"text": "x"}')
    version = only(home.fetch(url))
    names = [one["name"] for one in version.manifest["source"]["files"]]
    assert names == ["a/c.txt", "b.jsonl"]


def test_a_job_that_is_killed_goes_on_in_the_middle_of_an_object(
    home: Fetching, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "PIECE_BYTES", 10_000)
    for key in ("p/a.jsonl", "p/b.jsonl"):
        s3.put_object(Bucket="corpora", Key=key, Body=ROWS)
    pieces: list[tuple[str, int]] = []
    whole = bucket.give_way

    def dies(context: Any) -> None:
        whole(context)
        pieces.append(("piece", len(pieces)))
        if len(pieces) == 10:
            raise CancelledError

    monkeypatch.setattr(bucket, "give_way", dies)
    with pytest.raises(CancelledError):
        home.fetch("s3://corpora/p/", "shared")
    assert only(home.fetch("s3://corpora/p/", "shared")).manifest["rows"] == 6000
    num_pieces = 2 * -(-len(ROWS) // 10_000)
    assert len(pieces) == num_pieces + 1, "the piece that was not read is the only one again"


def test_an_object_that_changes_while_it_is_read_is_fetched_anew(
    home: Fetching, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "PIECE_BYTES", 10_000)
    s3.put_object(Bucket="corpora", Key="a.jsonl", Body=ROWS)
    whole, count = bucket.give_way, 0

    def changes(context: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            s3.put_object(Bucket="corpora", Key="a.jsonl", Body=ROWS.replace(b"row", b"new"))
        whole(context)

    monkeypatch.setattr(bucket, "give_way", changes)
    with pytest.raises(OutboundError, match="changed while it was read"):
        home.fetch("s3://corpora/a.jsonl", "shared")
    rows = home.rows(only(home.fetch("s3://corpora/a.jsonl", "shared")))
    assert {row["text"].partition(" ")[0] for row in rows} == {"new"}


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("s3://corpora/nothing.jsonl", DataError, "there is no s3://corpora/nothing.jsonl"),
        ("s3://corpora/nothing/", DataError, "there is no|no data files"),
        ("s3://corpora/", DataError, "no data files"),
        ("s3://secrets/a.jsonl", PermissionDeniedError, "LLMOS_S3_BUCKETS"),
        ("s3://shared/closed/a.jsonl", PermissionDeniedError, "LLMOS_S3_BUCKETS"),
    ],
)
def test_what_cannot_be_read_is_told(
    home: Fetching, s3: Any, url: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        home.fetch(url)


def test_an_object_over_the_limit_is_not_taken(
    home: Fetching, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOS_MAX_UPLOAD_BYTES", "1000")
    s3.put_object(Bucket="corpora", Key="a.jsonl", Body=ROWS)
    with pytest.raises(DataError, match="max_upload_bytes"):
        home.fetch("s3://corpora/a.jsonl")


def test_a_store_that_is_not_there_is_worth_another_attempt(
    home: Fetching, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(OutboundError) as failed:
        home.fetch("s3://corpora/a.jsonl")
    assert failed.value.retryable


@pytest.mark.parametrize(
    ("allowed", "url", "is_allowed"),
    [
        ("", "s3://corpora/a", False),
        ("corpora", "s3://corpora/a", True),
        ("corpora", "s3://corpora/", True),
        ("corpora", "s3://corpora2/a", False),
        ("x, corpora/open/", "s3://corpora/open/a", True),
        ("corpora/open", "s3://corpora/open", True),
        ("corpora/open", "s3://corpora/openly/a", False),
        ("corpora/open", "s3://corpora/", False),
    ],
)
def test_only_what_was_named_is_open(allowed: str, url: str, is_allowed: bool) -> None:
    source: BucketSource = bucket_source(url)
    if is_allowed:
        check_allowed(allowed, source)
    else:
        with pytest.raises(PermissionDeniedError):
            check_allowed(allowed, source)
