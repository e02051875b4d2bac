"""A site on this machine, which tests may fetch from, and jobs that do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.siteserver import Site, running_site
from tests.unit.data.data_jobs import Home

from llmos.data.datasets import adding, jobs
from llmos.kernel.protocol import JobLog
from llmos.types import JobResult


class Fetching(Home):
    """A home in which datasets are made of what lies elsewhere."""

    def fetch(self, url: str, checkpoint: str = "", **options: Any) -> JobResult:
        """Add what lies at a URL."""
        params = jobs.check_add({"name": "made", "url": url, **options})
        return adding.run(self.context(params, checkpoint))

    def logged(self) -> list[str]:
        """What the last job said."""
        return [one.line for one in self.sent if isinstance(one, JobLog)]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("LLMOS_ALLOW_PRIVATE_WEBHOOKS", "1")
    with running_site() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Fetching:
    return Fetching(tmp_path)
