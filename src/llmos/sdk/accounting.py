"""The part of the client that is about quotas and usage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from llmos.sdk.transport import Json, Transport


class Accounting:
    """Reads what owners used, and reads and sets what they may use."""

    transport: Transport

    def usage(
        self,
        first: str | None = None,
        last: str | None = None,
        *,
        owner: str | None = None,
        group_by: Sequence[str] = ("day", "owner", "model"),
    ) -> list[Json]:
        """What was used in UTC days such as ``2026-11-22``, both included; by default the last 30.

        One's own; an admin's key sees every owner's, or that of ``owner``.
        """
        params = _usage_params(first, last, owner, group_by)
        return self.transport.list("GET", "/api/v1/usage", params=params)

    def usage_csv(
        self,
        first: str | None = None,
        last: str | None = None,
        *,
        owner: str | None = None,
        group_by: Sequence[str] = ("day", "owner", "model"),
    ) -> str:
        """As ``usage``, as CSV."""
        params = _usage_params(first, last, owner, group_by)
        headers = {"Accept": "text/csv"}
        return self.transport.response("GET", "/api/v1/usage", params=params, headers=headers).text

    def quotas(self) -> list[Json]:
        """Every quota that was set, for an admin's key; else one's own."""
        return self.transport.list("GET", "/api/v1/quotas")

    def quota(self, owner: str) -> Json:
        """What an owner may use, whose limits those are, and what is used of them."""
        return self.transport.json("GET", _quota_path(owner))

    def set_quota(self, owner: str, limits: Mapping[str, float | None]) -> Json:
        """Let an owner (``*``: all without a quota of their own) have these limits and no others.
        For admins."""
        return self.transport.json("PUT", _quota_path(owner), json=dict(limits))

    def remove_quota(self, owner: str) -> Json:
        """Let an owner have everybody's limits again. For admins."""
        return self.transport.json("DELETE", _quota_path(owner))


def _quota_path(owner: str) -> str:
    return f"/api/v1/quotas/{quote(owner, safe='')}"


def _usage_params(
    first: str | None, last: str | None, owner: str | None, group_by: Sequence[str]
) -> dict[str, str]:
    params = {"from": first, "to": last, "owner": owner, "group_by": ",".join(group_by)}
    return {name: value for name, value in params.items() if value is not None}
