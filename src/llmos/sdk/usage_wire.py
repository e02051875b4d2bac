"""Quotas and usage as the API has them, shared by the server and whoever writes a client."""

from __future__ import annotations

from pydantic import StrictFloat, StrictInt

from llmos.sdk.wire import Body


class QuotaBody(Body):
    """What an owner may use; a field left out, or null, is no limit."""

    requests_per_s: StrictInt | StrictFloat | None = None
    concurrency: StrictInt | None = None
    tokens_per_day: StrictInt | None = None
    compute_s_per_day: StrictInt | StrictFloat | None = None
    stored_bytes: StrictInt | None = None
    queue_depth: StrictInt | None = None
