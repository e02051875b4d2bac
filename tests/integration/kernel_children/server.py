"""Stands in for a server: ``python -m kernel_children.server HOME KIND PARAMS`` runs one job.

Prints a line per event of the job, and goes on until it is killed. With ``{"hold": line}`` among
PARAMS the job is held once it has logged that line.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path

from kernel_children.handlers import KINDS
from llmos.kernel.kernel import Kernel
from llmos.kernel.ledger import Ledger
from llmos.settings import Settings
from llmos.storage.blobs import BlobStore
from llmos.storage.database import Database


async def main(home: Path, kind: str, params: dict[str, object]) -> None:
    settings = Settings(home=home, threads=1)
    BlobStore(settings.blobs_path)
    database = Database.open(settings.database_path)
    kernel = Kernel(
        database,
        Ledger(10**9),
        KINDS,
        settings,
        time.time,
        lambda connection, job, result: (),
        rng=random.Random(0),
    )
    await kernel.start()
    job = await kernel.jobs.submit(kind, params, owner="o")
    async for event in kernel.follow(job.id):
        worker = kernel.workers.pid(job.id)
        print(json.dumps({"worker": worker, "type": event.type, "data": event.data}), flush=True)
        if "hold" in params and event.data.get("line") == params["hold"]:
            kernel.workers.hold(job.id, "memory")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])))
