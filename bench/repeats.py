"""The runs of a bench, one per repeat and contestant: a bench that is interrupted goes on later.

Each run is written beside the results as it ends. The same command finds it there, unless it asks
for something else or the code is another; once the report is written it is gone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from results import RESULTS

Run = dict[str, Any]
HERE = Path(__file__).parent
CODE = (HERE, HERE.parent / "src")


class Repeats:
    """What each contestant measured so far, one run for each repeat.

    Args:
        name: of the bench's files under results/.
        asked: all that the numbers depend on.
    """

    def __init__(self, name: str, asked: Mapping[str, Any]) -> None:
        self._path = RESULTS / f"tmp_{name}.json"
        self._asked = {key: str(value) for key, value in asked.items()} | {"code": _digest()}
        self.runs: dict[str, list[Run]] = self._before()

    def measure(
        self,
        names: Sequence[str],
        repeats: int,
        run: Callable[[str, int], Run],
        line: Callable[[Run], str],
    ) -> dict[str, list[Run]]:
        """Return the runs of all contestants, who take turns; say of each what ``line`` does.

        Args:
            run: measures one contestant, given its name and the repeat's number.
        """
        for repeat in range(repeats):
            for name in names:
                found = self.runs.setdefault(name, [])
                is_new = len(found) <= repeat
                if is_new:
                    found.append(run(name, repeat))
                    self._write()
                before = "" if is_new else " (before)"
                print(f"{repeat + 1}/{repeats} {name}{before}: {line(found[repeat])}", flush=True)
        return self.runs

    def end(self) -> None:
        """Forget the runs: the report has them."""
        self._path.unlink(missing_ok=True)

    def _before(self) -> dict[str, list[Run]]:
        if not self._path.exists():
            return {}
        kept = json.loads(self._path.read_text("utf-8"))
        runs: dict[str, list[Run]] = kept["runs"] if kept["asked"] == self._asked else {}
        return runs

    def _write(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        written = self._path.with_suffix(".new")
        written.write_text(json.dumps({"asked": self._asked, "runs": self.runs}), "utf-8")
        written.replace(self._path)


def _digest() -> str:
    """Return what changes when what is measured may."""
    digest = hashlib.sha256()
    for root in CODE:
        for path in sorted((*root.rglob("*.py"), *root.rglob("*.cpp"), *root.rglob("*.h"))):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
