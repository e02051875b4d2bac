"""What hiding personal data adds to a request: processor time of the server and of its helper.

A server of its own is asked by a key that hides and by one that does not. First to repeat a text
of three or four sentences, without an engine's work (`echo`, no tokens), so that it is looked at as
a prompt and as an answer. Then for the tokens of conversations, which grow to twenty such texts: as
prompts, of which all but the last text are known. Processor time, as the machine may be busy with
other things. Writes results/anonymise_requests.json.

    python bench/anonymise_requests.py [--requests 200]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from typing import Any

import psutil

from llmos.sdk.client import Client
from llmos.sdk.connect import Endpoint, read_admin_key, wait_for_server
from llmos.settings import load_settings
from machine import machine
from results import table, write

TEXTS = {
    "English": "Please answer {name}, who wrote on {day} about invoice {number}. The amount is "
    "right, and the payment went out with the last run. Say so politely, and ask for an address "
    "at which somebody reads what we send. The old one was {mail}.",
    "Chinese": "请回复{name}关于第{number}号发票的来信，来信日期是{day}日。金额是对的，款项已随上"
    "一批付出。请礼貌地说明，并询问我们可以把材料寄到哪里。以前的邮箱是{mail}。",
}
NAMES = {"English": ["Rose Okafor", "Ian Marsh", "Ana Silva"], "Chinese": ["陈建军", "李芳"]}
TURNS = 20
Asked = tuple[str, dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as home:
        settings = load_settings({"home": home, "port": 0})
        command = [sys.executable, "-m", "llmos.cli.main", "up", "--foreground", "--port", "0"]
        process = subprocess.Popen([*command, "--home", home], stderr=subprocess.DEVNULL)
        try:
            url = wait_for_server(settings, timeout_s=120).url
            rows = measured(url, read_admin_key(settings) or "", process.pid, options.requests)
        finally:
            process.terminate()
            process.wait(30)
    header = ("what", "requests", "without ms", "with ms", "of it the helper's")
    table(header, [[row[key] for key in header] for row in rows])
    write("anonymise_requests", {"machine": machine(), "rows": rows})


def measured(url: str, admin_key: str, pid: int, num: int) -> list[dict[str, Any]]:
    """Return a row for each language, of requests and of the turns of a conversation."""
    with Client(Endpoint(url), admin_key) as admin:
        plain = admin.create_key("plain", models=["starter-chat"])["key"]
        hiding = admin.create_key("hiding", models=["starter-chat"], anonymise={})["key"]
    server = psutil.Process(pid)
    children = server.children(recursive=True)
    helper = next(one for one in children if "llmos.tasks.anonymise" in one.cmdline())
    rows = []
    with Client(Endpoint(url), plain) as without, Client(Endpoint(url), hiding) as with_it:
        for language in TEXTS:
            rng = random.Random(0)
            texts, turns = ([text(language, rng) for _ in range(num)] for _ in range(2))
            bodies = {
                language: [repeated(one) for one in texts],
                f"{language}, turn of {TURNS}": [
                    conversation(turns[at : at + turn])
                    for at in range(0, num, TURNS)
                    for turn in range(1, TURNS + 1)
                ],
            }
            for what, asked in bodies.items():
                row: dict[str, Any] = {"what": what, "requests": len(asked)}
                for name, client in (("without", without), ("with", with_it)):
                    before = seconds(server), seconds(helper)
                    for path, body in asked:
                        client.transport.json("POST", path, json=body)
                    spent = seconds(server) - before[0], seconds(helper) - before[1]
                    row[f"{name} ms"] = 1000 * sum(spent) / len(asked)
                    row["of it the helper's"] = 1000 * spent[1] / len(asked)
                rows.append(row)
    return rows


def repeated(one: str) -> Asked:
    """Return a request for a text as it is."""
    body = {"model": "starter-chat", "prompt": one, "max_tokens": 0, "echo": True}
    return "/v1/completions", body


def conversation(texts: list[str]) -> Asked:
    """Return a request for the tokens of a conversation."""
    messages = [{"role": "user", "content": one} for one in texts]
    return "/tokenize", {"model": "starter-chat", "messages": messages}


def text(language: str, rng: random.Random) -> str:
    """Return a text that nothing else is."""
    number = rng.randrange(10**6)
    values = {"number": number, "day": rng.randrange(1, 29), "mail": f"box{number}@example.org"}
    return TEXTS[language].format(name=rng.choice(NAMES[language]), **values)


def seconds(process: psutil.Process) -> float:
    """Return the processor time that a process has taken."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
