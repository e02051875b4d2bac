"""Looks up the base of an adapter that is about to be imported or pulled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from llmos.errors import InvalidRequestError
from llmos.library.bases import base_params, find_base
from llmos.library.files import ADAPTER_FILE
from llmos.library.jobs import check_import
from llmos.security import policy

if TYPE_CHECKING:
    from llmos.security.actors import Actor
    from llmos.system import System

MAY_MAKE_ADAPTERS = frozenset({"import", "pull"})


async def with_base(
    system: System, actor: Actor, kind: str, params: dict[str, Any]
) -> dict[str, Any]:
    """Return the params of an import or pull, ``base`` turned from a name into what the job needs.

    An import of an adapter that names none finds it by the adapter's files.

    Raises:
        InvalidRequestError: ``base`` is not a name, or given with a whole model.
        ModelNotFoundError, InvalidNameError: there is no such model.
        PermissionDeniedError: the actor may not read it.
        LlmosError: what the job's schema raises.
    """
    wanted = params.get("base")
    if wanted is not None and not isinstance(wanted, str):
        raise InvalidRequestError("base must be the name of a model", param="base")
    others = {key: value for key, value in params.items() if key != "base"}
    given = params.get("files")
    is_adapter = isinstance(given, dict) and ADAPTER_FILE in given
    if wanted is None and not is_adapter:
        return others
    if kind == "import" and not is_adapter:
        raise InvalidRequestError("base is for adapters, and this is a model", param="base")
    files = check_import(others)["files"] if is_adapter else {}
    base = await asyncio.to_thread(find_base, system.library, system.blobs, files, wanted)
    policy.check(actor, "models.read", base.ref)
    return {**others, "base": base_params(base)}
