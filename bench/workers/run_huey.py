"""huey on SQLite with synchronous=FULL: submits, then takes and runs jobs; prints jobs a second."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from huey import SqliteHuey


def main() -> None:
    asked = json.loads(sys.argv[1])
    count, callers = asked["jobs"], asked["callers"]
    huey = SqliteHuey(filename=str(Path(asked["folder"]) / "huey.db"), fsync=True, timeout=60)

    @huey.task()
    def double(value: int) -> dict[str, int]:
        return {"doubled": 2 * value}

    def work(_: int) -> None:
        huey.execute(huey.dequeue())

    submit_s = seconds_of(double, count, callers)
    work_s = seconds_of(work, count, callers)
    assert huey.result_count() == count, huey.result_count()
    values = {
        "submit": count / submit_s,
        "claim and complete": count / work_s,
        "all": count / (submit_s + work_s),
    }
    print(json.dumps(values))


def seconds_of(action: Callable[[int], object], count: int, callers: int) -> float:
    """Return the seconds that ``count`` actions take, so many at a time."""
    numbers, lock = iter(range(count)), threading.Lock()

    def caller() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            action(number)

    begun = time.perf_counter()
    threads = [threading.Thread(target=caller) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
