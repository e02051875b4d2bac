"""llmos' steps over a dataset, as a job does them; prints what was kept, and what was alike.

The dataset is that of a folder of Parquet files, which are put into the job's store before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from llmos.data.datasets import jobs
from llmos.data.pipeline import handler
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import StartJob
from llmos.storage.parquet import num_rows_in, read_rows

TOKENIZER = "bench"


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    work = Path(asked["work"])
    context = JobContext(
        StartJob(
            job_id=1,
            fence=1,
            attempt=1,
            handler="",
            name="bench",
            params={},
            owner="admin",
            home=str(work / "home"),
            checkpoint_dir=str(work / "job"),
            threads=asked["workers"],
            heartbeat_s=10.0,
        ),
        lambda message: None,
    )
    near = {"ngram": asked["ngram"], "bands": asked["bands"], "rows": asked["rows"]}
    filters = ["fix_text", "gopher_repetition", "gopher_quality"]
    steps: list[Any] = [
        *(filters if asked["filters"] else []),
        {"minhash_dedup": near},
        {"tokenize": {"tokenizer": TOKENIZER, "end": False, "keep_text": False}},
    ]
    shards = sorted(Path(asked["source"]).glob("*.parquet"))
    dataset = {
        "ref": "raw:1",
        "digest": f"sha256:{'0' * 64}",
        "rows": sum(map(num_rows_in, shards)),
        "license": "",
        "shards": [context.blobs.put_file(path, link=True).digest for path in shards],
    }
    given = {"pipeline": {"name": "clean", "input": "raw", "steps": steps}}
    file = context.blobs.put_file(Path(asked["tokenizer"]))
    models = {TOKENIZER: {"tokenizer.json": {"digest": file.digest, "size": file.size}}}
    filled_in = {"datasets": {"input": dataset}, "models": models}
    context.params = jobs.check_run(given | filled_in)
    done = handler.run(context)
    (version,) = done.artifacts
    alike: dict[str, list[str]] = {}
    if "clusters.parquet" in version.files:
        for row in read_rows(context.blobs.path(version.files["clusters.parquet"].digest)):
            alike.setdefault(row["cluster"], []).append(row["id"])
    told = {one["operator"]: one["seconds"] for one in done.summary["operators"]}
    print(json.dumps({"kept": version.manifest["rows"], "clusters": [*alike.values()], "by": told}))


if __name__ == "__main__":
    main()
