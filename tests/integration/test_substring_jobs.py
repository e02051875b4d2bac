"""Jobs cut what is there before out of texts, the same whatever the number of their processes."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

from tests.unit.data.data_jobs import Home, only
from tests.unit.data.operators.test_substrings import LEAST, expected, planted

from llmos.data.datasets import adding


def test_a_job_cuts_the_same_whatever_its_workers(tmp_path: Path) -> None:
    texts = planted(120, 3)
    lines = [json.dumps({"text": text}) for text in texts]
    files = {f"{n:03d}.jsonl": "\n".join(lines[n : n + 20]) for n in range(0, len(lines), 20)}
    steps = [{"substring_dedup": {"least": LEAST, "least_left": 0}}, "exact_dedup"]
    digests = set()
    for threads in (1, 2):
        home = Home(tmp_path / str(threads), threads=threads)
        with mock.patch.object(adding, "GROUP_BYTES", 1):
            raw = only(home.add(files))
        assert len(raw.manifest["shards"]) == 6
        made = only(home.run(raw, steps))
        digests.add(json.dumps([one.digest for one in made.files.values()]))
        rows = [row.get("text", "") for row in home.rows(made)]
        assert rows == list(dict.fromkeys(expected(texts, LEAST))) and rows != texts
        told = made.manifest["operators"][0]
        assert told["pieces"] > told["repeated"] > told["changed"] > 10
    assert len(digests) == 1
