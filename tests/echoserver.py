"""A real llmos server process whose models repeat what they are told: clients are tried on it.

`talker` repeats a conversation's last turn, so that a test can put any words, a tool call or a
JSON text, into the model's mouth; `slow` takes its time to; `thinker` thinks it first; `vectors`
embeds.
"""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from llmos.sdk.connect import read_admin_key, server_file, wait_for_server
from llmos.settings import Settings, load_settings
from llmos.system import open_system
from llmos.types import NewVersion

ALPHABET = string.printable + "你好世界，！"
LAST_TURN = "{{ messages[-1].content }}{% if tools %}{% endif %}"
THOUGHTS = "<think>{{ messages[-1].content }}</think>{% if enable_thinking %}!{% endif %}ok"
MAIN = """
import sys
from llmos.server.process import run_foreground
from llmos.settings import load_settings
run_foreground(load_settings({"home": sys.argv[1], "port": 0, "threads": 1}))
"""


def tokenizer_json() -> bytes:
    """One token a character; byte 0 is the end."""
    vocabulary = {"\0": 0} | {char: i + 1 for i, char in enumerate(ALPHABET)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="\0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["\0"])
    return tokenizer.to_str().encode()


def manifests() -> dict[str, dict[str, Any]]:
    """Every model's manifest, by name."""
    base = {"engine": "echo", "architecture": "Echo", "model_type": "echo", "eos_ids": [0]}
    base |= {"context_tokens": 2000, "vocab_size": len(ALPHABET) + 1, "license": "apache-2.0"}
    base |= {"parameters": 494_032_768, "dtype": "bfloat16"}
    return {
        "talker": {**base, "task": "chat", "chat_template": LAST_TURN},
        "slow": {**base, "task": "chat", "chat_template": LAST_TURN, "step_s": 0.01},
        "thinker": {**base, "task": "chat", "chat_template": THOUGHTS},
        "writer": {**base, "task": "generate", "generation": {"temperature": 0.5}},
        "vectors": {**base, "task": "embed", "embedding": {"dimensions": 4}},
    }


class EchoServer:
    """The process, where it is, and its admin key."""

    def __init__(self, home: Path, environ: Mapping[str, str] | None = None) -> None:
        self.settings = load_settings({"home": home}, {})
        self._environ = {**os.environ, **(environ or {})}
        _add_models(self.settings)
        self.start()
        self.key = read_admin_key(self.settings) or ""

    def start(self) -> None:
        """Start it, or once more after its end."""
        server_file(self.settings).unlink(missing_ok=True)  # one that was killed leaves it
        said = self.settings.home / "said.txt"
        with said.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", MAIN, str(self.settings.home)],
                stdout=file,
                stderr=file,
                env=self._environ,
            )
        try:
            self.url = wait_for_server(self.settings, timeout_s=60).url
        except BaseException:
            self.process.kill()
            print(said.read_text("utf-8"))
            raise

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)


def _add_models(settings: Settings) -> None:
    system = open_system(settings)
    tokenizer = system.blobs.put_bytes(tokenizer_json())
    for name, manifest in manifests().items():
        # Models of the same content are one to the engine, which loads the first of them.
        config = system.blobs.put_bytes(json.dumps({"name": name}).encode())
        files = {"config.json": config, "tokenizer.json": tokenizer}
        system.library.add(NewVersion("model", name, files, manifest), "admin")
    system.database.close()
    system.lock.release()
