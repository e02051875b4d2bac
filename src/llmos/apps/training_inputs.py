"""What a training is made of beside its files: models of the library, and what people said of
answers, each looked up and checked to be the actor's to use when its job is submitted.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import msgspec

from llmos.apps.dataset_inputs import NOT_YET, stored
from llmos.apps.inputs import check_trainable, datasets_for, readable
from llmos.errors import DataError, InvalidRequestError, NothingNewError
from llmos.library.feedback import Taken, check_source
from llmos.library.lessons import READS, STREAM, source_of
from llmos.library.refs import ModelRef
from llmos.security import policy
from llmos.training.jobs import ROLES, wanted_data, wanted_model
from llmos.training.recipe import parse
from llmos.training.recipe_sections import FEEDBACK

if TYPE_CHECKING:
    from llmos.library.artifacts import Library
    from llmos.library.feedback import FeedbackStore
    from llmos.security.actors import Actor
    from llmos.storage.blobs import BlobStore
    from llmos.training.recipe import Recipe
    from llmos.types import FileRef


class TrainingInputs:
    """Completes train requests."""

    def __init__(self, library: Library, blobs: BlobStore, feedback: FeedbackStore) -> None:
        self._library = library
        self._blobs = blobs
        self._feedback = feedback

    async def models(self, actor: Actor, params: dict[str, Any]) -> dict[str, Any]:
        """Return the versions that a recipe names, by their roles in a training, each where there
        is one, and ``datasets``.

        Raises:
            InvalidRequestError: the request brings one of its own, or it cannot be trained.
            ModelNotFoundError, InvalidNameError: there is no such model.
            PermissionDeniedError: the actor may not read it.
        """
        found = await datasets_for(self._library, actor, params, wanted_data(params))
        _check_tokenized(params, found)
        for role, (section, key) in ROLES.items():
            if params.get(role) is not None:
                raise InvalidRequestError(
                    f"{role} is the server's to fill in: "
                    f"name a model in the recipe's {section}.{key}",
                    param=f"params.{role}",
                )
            name = wanted_model(params, role)
            if name is None:
                continue
            version = await readable(self._library, actor, name, "params.recipe")
            check_trainable(version, role, params)
            files = msgspec.to_builtins(version.files)
            found[role] = {"ref": version.ref, "digest": version.digest, "files": files}
        return found

    async def lessons(
        self, actor: Actor, params: dict[str, Any], begins: bool = False, stores: bool = False
    ) -> dict[str, Any]:
        """Return ``{"data", "stream"}`` of a recipe that learns from feedback, as far as it does:
        the rows are gathered now, and become a file of the owner's. Rows that the request names by
        their digest are taken as they are.

        Args:
            begins: whether the job is to begin now; else it is no fault that nothing is new yet.
            stores: whether the rows are stored; else something stands for their digest.

        Raises:
            InvalidRequestError: the request brings a stream of its own, or names no model.
            DataError: there is nothing to learn from.
            NothingNewError: a micro-update's new rows are too few.
            PermissionDeniedError: the actor may not read feedback, or not on that model.
        """
        if params.get(STREAM) is not None:
            raise InvalidRequestError("stream is the server's to fill in", param="params.stream")
        path = _feedback_path(params)
        data = params.get("data")
        data = data if isinstance(data, dict) else {}
        is_online = path is not None and _is_online(params)
        if is_online and "search" in params:
            raise InvalidRequestError(
                "a search tries many recipes, and a micro-update is learned once: leave online out",
                param="params.recipe",
            )
        if path is None or (path in data and not is_online):
            return {}
        name = check_source(path)
        policy.check(actor, "feedback.read")
        policy.check(actor, "models.read", name)
        recipe = parse(params["recipe"])
        if is_online:
            _check_goes_on(recipe, _learner(recipe, params))
        if not begins and is_online:
            taken, file = Taken([], 0, 0), None
        else:
            taken = await self._taken(actor, recipe, params, name)
            _check_enough(recipe, taken, name)
            file = await self._stored(actor, taken.rows) if stores else None
        filled: dict[str, Any] = {"data": data | {path: file.digest if file else NOT_YET}}
        if is_online:
            filled[STREAM] = {
                "source": source_of(name),
                "after": taken.after,
                "upto": taken.upto,
                "rows": len(taken.rows),
            }
        return filled

    async def _taken(
        self, actor: Actor, recipe: Recipe, params: dict[str, Any], name: str
    ) -> Taken:
        """Return the rows that a recipe learns: all, or of a micro-update as many new ones as its
        steps see each once."""
        if recipe.online is None:
            return await self._feedback.lessons(actor.owner, name, recipe.reads)
        learner = _learner(recipe, params)
        limit = recipe.num_new_rows
        return await self._feedback.news(actor.owner, learner, name, recipe.reads, limit)

    async def _stored(self, actor: Actor, rows: Collection[dict[str, Any]]) -> FileRef:
        at = self._feedback.now()
        return await stored(self._library, self._blobs, actor, rows, at)


def _feedback_path(params: dict[str, Any]) -> str | None:
    """Return the feedback that the recipe of an unchecked request learns from, None for none."""
    recipe = params.get("recipe")
    data = recipe.get("data") if isinstance(recipe, dict) else None
    path = data.get("path") if isinstance(data, dict) else None
    return path if isinstance(path, str) and path.startswith(FEEDBACK) else None


def _check_tokenized(params: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse a recipe that takes the tokenizer of a dataset which has none.

    Raises:
        InvalidRequestError: its data was not tokenised.
    """
    recipe = params.get("recipe")
    section = recipe.get("tokenizer") if isinstance(recipe, dict) else None
    data = recipe.get("data") if isinstance(recipe, dict) else None
    if not isinstance(section, dict) or section.get("kind") != "data" or not isinstance(data, dict):
        return
    told = found.get("datasets", {}).get(str(data.get("path")))
    if told is not None and not told["tokenizer"]:
        raise InvalidRequestError(
            f"{told['ref']} has no token ids: run the operator tokenize on it, or choose another "
            "tokenizer.kind",
            param="params.recipe",
        )


def _is_online(params: dict[str, Any]) -> bool:
    return params["recipe"].get("online") is not None


def _learner(recipe: Recipe, params: dict[str, Any]) -> str:
    """Return the name of the model that an unchecked request makes."""
    given = params.get("name")
    return str(ModelRef.parse(given if isinstance(given, str) and given else recipe.name))


def _check_goes_on(recipe: Recipe, learner: str) -> None:
    """Refuse a micro-update that forgets the last one.

    Raises:
        InvalidRequestError: it goes on from another model, or always from the same version.
    """
    base = ModelRef.parse(recipe.model.base or "")
    if base.full_name != learner or base.version is not None:
        raise InvalidRequestError(
            f"a micro-update goes on from the last: model.base must be an alias of {learner}, "
            f"such as {learner}@production",
            param="params.recipe",
        )


def _check_enough(recipe: Recipe, taken: Taken, name: str) -> None:
    """Refuse too few rows.

    Raises:
        NothingNewError: a micro-update waits for more.
        DataError: there are none.
    """
    num_rows = len(taken.rows)
    if recipe.online is not None:
        if num_rows < recipe.online.min_rows:
            raise NothingNewError(
                f"{num_rows} of at least {recipe.online.min_rows} new lessons from feedback on "
                f"{name} are there: the next update waits for the others",
                param="params.recipe",
            )
        return
    if not num_rows:
        wanted = "corrections" if recipe.reads == READS[1] else "corrections or good answers"
        raise DataError(
            f"there are no {wanted} of {name} to learn from: `llmos answers on` keeps answers, "
            "and `llmos feedback --response ID` says what they should have been",
            param="params.recipe",
        )
