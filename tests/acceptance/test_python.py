"""`import llmos` as a program does: beside a running server, and with none at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from harness import Llmos

SCRIPT = """
import json, llmos
model = llmos.load_model("machine_translation")
answer = {
    "translation": model.translate("Hello, world!", source_lang="en", target_lang="zh"),
    "sentiment": llmos.load_model("sentiment").classify("这家餐厅很好吃")["label"],
    "entities": [
        entity["text"]
        for entity in llmos.load_model("entities").entities(
            "Alice flew from Paris to Beijing on Monday."
        )
    ],
    "chat": "".join(
        chunk.text
        for chunk in llmos.load_model("starter-chat").chat(
            [{"role": "user", "content": "hi"}], stream=True
        )
    ),
}
print(json.dumps(answer))
"""


def check(llmos: Llmos) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=llmos.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["translation"] == "你好，世界！"
    assert answer["sentiment"] == "positive"
    assert answer["entities"] == ["Alice", "Paris", "Beijing", "Monday"]
    assert answer["chat"]


def test_python_uses_the_running_server(llmos: Llmos, starter_models: tuple[str, ...]) -> None:
    check(llmos)


def test_python_needs_no_server(tmp_path: Path, starter_models: tuple[str, ...]) -> None:
    alone = Llmos(tmp_path)
    check(alone)
    assert "not running" in alone.ok("down")
