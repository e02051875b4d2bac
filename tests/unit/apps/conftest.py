"""Jobs as values, for tests that need no queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmos.kernel.jobs import Job, JobState
from llmos.types import Priority

MakeJob = Callable[..., Job]


@pytest.fixture
def make_job() -> MakeJob:
    """Return a function that makes a job in a state; more fields by name."""

    def make(id: int, state: str = "succeeded", **values: Any) -> Job:
        fields: dict[str, Any] = {
            "kind": "k",
            "name": "n",
            "params": {},
            "priority": Priority.BACKGROUND,
            "owner": "o",
            "created_at": 0.0,
            "queued_at": 0.0,
            "started_at": None,
            "finished_at": None,
            "not_before": 0.0,
            "attempt": 1,
            "failures": 0,
            "max_attempts": 3,
            "fence": 1,
            "lease_expires_at": None,
            "cancel_requested": False,
            "reserved_bytes": 0,
            "threads": 1,
            "progress": None,
            "error": None,
            "result": None,
        }
        return Job(id=id, state=JobState(state), **fields | values)

    return make
