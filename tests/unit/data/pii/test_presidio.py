"""What finds numbers by presidio's recognizers takes no language model's libraries along."""

from __future__ import annotations

import subprocess
import sys

FINDS = """
import importlib.util, sys
from llmos.data.pii.presidio import numbers_by_presidio
print([span.type for span in numbers_by_presidio("US passport number 912803456")])
print("presidio_analyzer" in sys.modules, "torch" in sys.modules, "transformers" in sys.modules)
print(importlib.util.find_spec("torch").name)
"""


def test_a_process_that_finds_personal_data_loads_no_torch_and_still_could() -> None:
    done = subprocess.run([sys.executable, "-c", FINDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['PASSPORT']", "True False False", "torch"]
