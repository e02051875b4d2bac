"""What owners used, and what they may use: /api/v1/usage and /api/v1/quotas."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from llmos.errors import InvalidRequestError
from llmos.kernel.quotas import EVERYONE, Limits
from llmos.kernel.usage_store import COLUMNS, GROUPS
from llmos.sdk.usage_wire import QuotaBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute

if TYPE_CHECKING:
    from llmos.kernel.accounts import Accounts
    from llmos.system import System

DEFAULT_DAYS = 30
MAX_OWNER_CHARS = 128
CSV = "text/csv"

Owner = Annotated[str, Path(min_length=1, max_length=MAX_OWNER_CHARS)]


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["usage"], route_class=BodyRoute)
    accounts = system.kernel.accounts

    @routes.get("/usage")
    async def read_usage(
        request: Request,
        actor: Annotated[Actor, allow("usage.read")],
        first: Annotated[date | None, Query(alias="from")] = None,
        last: Annotated[date | None, Query(alias="to")] = None,
        owner: Annotated[str | None, Query(max_length=MAX_OWNER_CHARS)] = None,
        group_by: Annotated[str, Query(max_length=100)] = ",".join(GROUPS),
    ) -> Response:
        """What was used in UTC days, both included; one's own unless one is an admin.

        As CSV for `Accept: text/csv`. `model` is empty for jobs. `joules` are null where the
        machine does not tell.
        """
        first_day, last_day = _days(first, last, system.keys.clock())
        groups = _groups(group_by)
        if actor.role != "admin":
            owner = _own(actor, owner)
        rows = await accounts.usage(first_day, last_day, owner=owner, group_by=groups)
        if CSV in request.headers.get("accept", ""):
            return Response(_csv(rows, groups), media_type=CSV)
        return JSONResponse({"data": rows, "from": first_day, "to": last_day})

    @routes.get("/quotas")
    async def list_quotas(actor: Annotated[Actor, allow("quotas.read")]) -> JSONResponse:
        """Every quota that was set, for an admin; else one's own."""
        if actor.role != "admin":
            return JSONResponse({"data": [await _quota(accounts, actor.owner)]})
        data = [_row(owner, limits) for owner, limits in accounts.limits().items()]
        return JSONResponse({"data": data})

    @routes.get("/quotas/{owner:path}")
    async def read_quota(
        owner: Owner, actor: Annotated[Actor, allow("quotas.read")]
    ) -> JSONResponse:
        """What an owner may use, and what it uses now or used today."""
        policy.check(actor, "quotas.read", f"quota {owner}", owner=owner)
        return JSONResponse(await _quota(accounts, owner))

    @routes.put("/quotas/{owner:path}")
    async def set_quota(
        owner: Owner, body: QuotaBody, actor: Annotated[Actor, allow("quotas.manage")]
    ) -> JSONResponse:
        """Let an owner have these limits and no others; `*` is everybody who has none."""
        _check_owner(owner)
        await accounts.set_limits(owner, Limits(**body.model_dump()), actor.id)
        return JSONResponse(await _quota(accounts, owner))

    @routes.delete("/quotas/{owner:path}")
    async def remove_quota(
        owner: Owner, actor: Annotated[Actor, allow("quotas.manage")]
    ) -> JSONResponse:
        """Let an owner have everybody's limits again."""
        await accounts.remove_limits(owner, actor.id)
        return JSONResponse(await _quota(accounts, owner))

    return routes


async def _quota(accounts: Accounts, owner: str) -> dict[str, Any]:
    """Return the limits that hold for an owner, whose they are, and what is used of them."""
    used = {} if owner == EVERYONE else {"used": await accounts.used_by(owner)}
    row = _row(owner, accounts.limits_of(owner))
    return {**row, "set_for": accounts.row_of(owner), **used}


def _row(owner: str, limits: Limits) -> dict[str, Any]:
    return {"owner": owner, "limits": dataclasses.asdict(limits)}


def _check_owner(owner: str) -> None:
    if not owner.isprintable() or owner != owner.strip():
        raise InvalidRequestError(
            "owner must be the name of a key's owner, as `llmos keys list` shows it, or *",
            param="owner",
        )


def _own(actor: Actor, owner: str | None) -> str:
    """Return whose usage a user may read: its own. Raises PermissionDeniedError for another's."""
    policy.check(actor, "usage.read", f"usage of {owner}", owner=owner)
    return actor.owner


def _days(first: date | None, last: date | None, now: float) -> tuple[str, str]:
    last = last or datetime.fromtimestamp(now, UTC).date()
    if first is None:
        first = last - min(timedelta(days=DEFAULT_DAYS - 1), last - date.min)
    if first > last:
        raise InvalidRequestError(f"from ({first}) is after to ({last}).", param="from")
    return first.isoformat(), last.isoformat()


def _groups(text: str) -> tuple[str, ...]:
    """Return what to tell usage apart by, in the order of `GROUPS`; empty text: by nothing."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in GROUPS:
            raise InvalidRequestError(
                f"group_by has {name[:40]!r}, but usage is told apart by {', '.join(GROUPS)}.",
                param="group_by",
            )
    return tuple(name for name in GROUPS if name in names)


def _csv(rows: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> str:
    """Return rows as CSV under a heading; what the machine does not tell is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*groups, *COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
