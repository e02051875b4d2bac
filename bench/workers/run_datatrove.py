"""datatrove's steps over a folder of Parquet files; prints what was kept, and what was alike."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import FTFYFormatter
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers.jsonl import JsonlWriter


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    work = Path(asked["work"])
    config = MinhashConfig(
        n_grams=asked["ngram"], num_buckets=asked["bands"], hashes_per_bucket=asked["rows"]
    )
    clean, removed = work / "clean", work / "remove"

    def run(name: str, steps: list[Any], tasks: int) -> None:
        LocalPipelineExecutor(
            steps,
            tasks=tasks,
            workers=min(tasks, asked["workers"]),
            logging_dir=str(work / "logs" / name),
            start_method="fork",
        ).run()

    filters = [FTFYFormatter(), GopherRepetitionFilter(), GopherQualityFilter()]
    run(
        "clean",
        [
            ParquetReader(asked["source"]),
            *(filters if asked["filters"] else []),
            JsonlWriter(str(clean), compression=None),
            MinhashDedupSignature(str(work / "signatures"), config),
        ],
        asked["workers"],
    )
    run(
        "buckets",
        [MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=config)],
        config.num_buckets,
    )
    cluster = MinhashDedupCluster(str(work / "buckets"), str(removed), config, save_cluster_id=True)
    run("cluster", [cluster], 1)
    run(
        "tokens",
        [
            JsonlReader(str(clean)),
            MinhashDedupFilter(str(removed)),
            DocumentTokenizer(
                str(work / "tokens"),
                asked["tokenizer"],
                shuffle_documents=False,
                save_final_metadata=False,
            ),
        ],
        asked["workers"],
    )
    kept, clusters = found(clean, removed)
    print(json.dumps({"kept": kept, "clusters": clusters}))


def found(clean: Path, removed: Path) -> tuple[int, list[list[str]]]:
    """Return how many documents are left, and the ids of those that are alike."""
    count, alike = 0, dict[int, list[str]]()
    for path in sorted(clean.glob("*.jsonl")):
        ids = [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]
        count += len(ids)
        members = removed / f"{int(path.stem):06d}.clusters"
        if members.exists():
            for place, cluster in struct.iter_unpack("<2I", members.read_bytes()):
                alike.setdefault(cluster, []).append(ids[place])
    gone = sum(path.stat().st_size // 4 for path in removed.glob("*.remove"))
    return count - gone, list(alike.values())


if __name__ == "__main__":
    main()
