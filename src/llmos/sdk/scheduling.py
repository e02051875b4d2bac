"""The part of the client that is about schedules and webhooks."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.sdk.asking import given
from llmos.sdk.pipelines import with_data
from llmos.sdk.transfer import OnProgress
from llmos.sdk.transport import Json, Transport


class Scheduling:
    """Makes, lists and removes schedules and webhooks."""

    transport: Transport

    def schedules(self) -> list[Json]:
        """Your schedules (an admin's key sees everyone's), the next to start first."""
        return self.transport.list("GET", "/api/v1/schedules")

    def schedule(self, schedule_id: int) -> Json:
        """One schedule, with its pipeline."""
        return self.transport.json("GET", f"/api/v1/schedules/{schedule_id}")

    def add_schedule(
        self,
        cron: str,
        pipeline: Json,
        timezone: str = "UTC",
        name: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Json:
        """Upload the data that a pipeline's recipes name, and run it by a cron of five fields in a
        time zone from now on; returns the schedule.

        Raises:
            InvalidRequestError: it is no cron, it never comes due, there is no such time zone.
            PipelineError, LlmosError: as `check_pipeline`.
        """
        ready = with_data(self.transport, pipeline, on_progress)
        body = {"cron": cron, "pipeline": ready, "timezone": timezone, "name": name}
        return self.transport.json("POST", "/api/v1/schedules", json=given(body))

    def remove_schedule(self, schedule_id: int) -> Json:
        """Remove a schedule; a run of it that goes on is not stopped."""
        return self.transport.json("DELETE", f"/api/v1/schedules/{schedule_id}")

    def webhooks(self) -> list[Json]:
        """Your webhooks (an admin's key sees everyone's), the oldest first."""
        return self.transport.list("GET", "/api/v1/webhooks")

    def add_webhook(self, url: str, events: Sequence[str] | None = None) -> Json:
        """Have these events of your jobs and runs, or all, sent to a public address.

        Returns the webhook with its ``secret``, which is shown this once.
        """
        body = {"url": url, "events": None if events is None else list(events)}
        return self.transport.json("POST", "/api/v1/webhooks", json=given(body))

    def remove_webhook(self, webhook_id: int) -> Json:
        """Send nothing more to a webhook."""
        return self.transport.json("DELETE", f"/api/v1/webhooks/{webhook_id}")

    def deliveries(
        self,
        webhook_id: int | None = None,
        state: str | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> list[Json]:
        """What was sent to webhooks, or is to be (pending, delivered, dead), the newest first."""
        params = {"webhook": webhook_id, "state": state, "limit": limit, "before": before}
        return self.transport.list("GET", "/api/v1/deliveries", params=given(params))
