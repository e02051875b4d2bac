"""Server, engine and workers killed at random under load: every job ends, once, as it should."""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from harness import ROOT, Llmos, kill, stop, until

from llmos.types import NewVersion

PLUGIN = Path(__file__).parent / "faults_plugin"
RESULTS = ROOT / "bench" / "results" / "faults.json"
ENDINGS = ("well", "well", "well", "well", "well", "well", "flaky", "flaky", "mistake", "dead")
STATES = {"well": "succeeded", "flaky": "succeeded", "mistake": "failed", "dead": "failed"}
VICTIMS = ("server", "engine", "engine", "worker", "worker", "worker", "worker")
FINAL = ("succeeded", "failed", "cancelled")
PROMPT = "the quick brown fox jumps over the lazy dog " * 8


@pytest.mark.timeout(300)
def test_every_job_ends_once_whatever_is_killed(tmp_path: Path) -> None:
    check(attack(tmp_path, num_jobs=60, seconds=15.0, seed=1))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_jobs_end_once_after_five_minutes_of_kills(tmp_path: Path) -> None:
    report = attack(tmp_path, num_jobs=1000, seconds=300.0, seed=20261122)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    check(report)


def check(report: dict[str, Any]) -> None:
    """What must hold after any attack."""
    assert not report["wrong"], report["wrong"][:5]
    assert report["kills"]["server"] and report["kills"]["worker"] and report["kills"]["engine"]
    assert report["answers"]["complete"] > 0
    assert set(report["answers"]) <= {"complete", "error"}, report["answers"]


# -- the attack ------------------------------------------------------------------------------------


def attack(root: Path, *, num_jobs: int, seconds: float, seed: int) -> dict[str, Any]:
    """Run jobs and streams while things are killed; return what came of all of them."""
    begun = time.monotonic()
    paths = os.pathsep.join(filter(None, (str(PLUGIN), os.environ.get("PYTHONPATH"))))
    environment = {
        "PYTHONPATH": paths,
        "LLMOS_HEARTBEAT_S": "1",
        "LLMOS_LEASE_S": "5",
        "LLMOS_MAX_WORKERS": "4",
    }
    with _with_talker(root, environment) as llmos, Load(llmos, num_jobs, seed) as load:
        kills = _kill_at_random(llmos, random.Random(seed), begun + seconds)
        jobs = load.jobs_at_the_end()
        load.stop()
        wrong = [text for number, job in jobs.items() for text in load.faults_of(number, job)]
    return {
        "jobs": num_jobs,
        "kills": dict(kills),
        "states": dict(Counter(job["state"] for job in jobs.values())),
        "attempts": sum(job["attempt"] for job in jobs.values()),
        "answers": dict(load.answers),
        "wrong": wrong,
        "seconds": round(time.monotonic() - begun),
    }


@contextlib.contextmanager
def _with_talker(root: Path, environment: dict[str, str]) -> Iterator[Llmos]:
    """A running llmos whose library has a model that repeats what it is told."""
    from tests.echoserver import manifests, tokenizer_json

    llmos = Llmos(root, **environment)
    with llmos.system() as system:
        files = {
            "config.json": system.blobs.put_bytes(b"{}"),
            "tokenizer.json": system.blobs.put_bytes(tokenizer_json()),
        }
        new = NewVersion("model", "writer", files, manifests()["writer"])
        system.library.add(new, "admin")
    try:
        llmos.up()
        yield llmos
    finally:
        stop(llmos)


def _kill_at_random(llmos: Llmos, draw: random.Random, ends_at: float) -> Counter[str]:
    """Kill one thing after the other, at drawn moments; return how many of each. The first few are
    one of each: a busy machine may not come to more."""
    kills: Counter[str] = Counter()
    victims = sorted(set(VICTIMS))
    while time.monotonic() < ends_at or victims:
        next_at = time.monotonic() + draw.uniform(0.1, 1.0)
        until(lambda at=next_at: time.monotonic() >= at, "the next kill")
        victim = victims.pop() if victims else draw.choice(VICTIMS)
        process = {"server": lambda: llmos.server, "engine": llmos.engine, "worker": llmos.worker}
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
            is_first = not kills[victim]
            found = until(process[victim], f"a {victim}") if is_first else process[victim]()
            if found:
                kill(found)
                kills[victim] += 1
        if victim == "server":
            llmos.up()
    return kills


@dataclass
class Load:
    """Jobs that are submitted, and streams that are read, all through the attack."""

    llmos: Llmos
    num_jobs: int
    seed: int
    ids: dict[int, int] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=run) for run in (self._submit, self._ask)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask for nothing more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def jobs_at_the_end(self) -> dict[int, dict[str, Any]]:
        """Wait until every job has ended; return them by number."""
        submitting = self._threads[0]
        until(lambda: not submitting.is_alive(), "every job to be accepted", 300)
        assert len(self.ids) == self.num_jobs, "a job was refused"
        jobs: dict[int, dict[str, Any]] = {}
        for number, job_id in self.ids.items():
            job = until(lambda id=job_id: self._ended(id), f"job {job_id} to end", 900)
            assert job is not None
            jobs[number] = job
        return jobs

    def faults_of(self, number: int, job: dict[str, Any]) -> list[str]:
        """Return what is wrong with an ended job; nothing, it is hoped."""
        job_id, expected = job["id"], STATES[self._ending(number)]
        faults = []
        if job["state"] != expected:
            faults.append(f"job {job_id} is {job['state']}, not {expected}: {job['error']}")
        events = self._get(f"/api/v1/jobs/{job_id}/events?follow=false", is_stream=True)
        ends = [one for one in events if one["type"] == "state" and one["data"]["state"] in FINAL]
        if len(ends) != 1:
            faults.append(f"job {job_id} ended {len(ends)} times")
        made = [] if job["result"] is None else job["result"]["artifacts"]
        if made != ([f"fault-{number}:1"] if expected == "succeeded" else []):
            faults.append(f"job {job_id} committed {made}")
        return faults

    # -- the two threads -------------------------------------------------------------------------

    def _submit(self) -> None:
        """Submit every job until each was accepted, by a key that makes that happen once."""
        for number in range(self.num_jobs):
            ends = self._ending(number)
            params = {"number": number, "ends": ends, "steps": 3, "step_s": 0.02}
            body = {"kind": f"fault-{ends}", "name": f"fault-{number}", "params": params}
            while number not in self.ids and not self._stop.is_set():
                with contextlib.suppress(httpx.HTTPError, OSError, ValueError):
                    headers = {"Idempotency-Key": f"fault-{number}"}
                    answer = self._http("POST", "/api/v1/jobs", json=body, headers=headers)
                    assert not answer.is_client_error, answer.text
                    if answer.is_success:
                        self.ids[number] = answer.json()["id"]

    def _ask(self) -> None:
        """Read one stream after the other; each is complete or a clear error."""
        body = {"model": "writer", "prompt": PROMPT, "max_tokens": len(PROMPT), "stream": True}
        while not self._stop.is_set():
            try:
                answer = self._http("POST", "/v1/completions", json=body)
                lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
            except (httpx.HTTPError, OSError, ValueError):
                self.answers["error"] += 1
                continue
            chunks = [json.loads(line) for line in lines if line != "[DONE]"]
            if lines and lines[-1] == "[DONE]" and "error" not in chunks[-1]:
                text = "".join(one["choices"][0]["text"] for one in chunks if one["choices"])
                self.answers["complete" if text == PROMPT else "wrong"] += 1
            else:
                has_said = not answer.is_success or (chunks and "error" in chunks[-1])
                self.answers["error" if has_said else "broken off in silence"] += 1

    # -- HTTP ------------------------------------------------------------------------------------

    def _ending(self, number: int) -> str:
        return ENDINGS[number % len(ENDINGS)]

    def _ended(self, job_id: int) -> dict[str, Any] | None:
        job: dict[str, Any] = self._get(f"/api/v1/jobs/{job_id}")
        return job if job["state"] in FINAL else None

    def _get(self, path: str, *, is_stream: bool = False) -> Any:
        answer = self._http("GET", path)
        assert answer.is_success, answer.text
        if not is_stream:
            return answer.json()
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    def _http(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask the server that runs now; each request on a connection of its own."""
        headers = {"Authorization": f"Bearer {self.llmos.key}", **options.pop("headers", {})}
        with httpx.Client(verify=False, timeout=60) as client:  # it is no TLS, whose set-up is slow
            return client.request(method, f"{self.llmos.url}{path}", headers=headers, **options)
