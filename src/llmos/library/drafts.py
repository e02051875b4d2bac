"""Small models that guess what larger ones will say: who guesses for whom.

The setting ``drafts`` pairs them by name: ``big=small, other=tiny``. What is answered stays the
same; see `llmos.engines.native.drafts` for how.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmos.errors import InvalidModelError, InvalidRequestError, ModelNotFoundError
from llmos.library.bases import Finder
from llmos.library.refs import ModelRef, parse_name
from llmos.library.versions import Version


def parse_drafts(text: str) -> dict[str, str]:
    """Return the reference of each model's draft, by the model's name.

    Raises:
        InvalidRequestError: the text is no list of pairs, or has a model twice.
        InvalidNameError: a name in it is none, or that of a model has a version or alias.
    """
    drafts: dict[str, str] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        model, _, draft = (part.strip() for part in pair.partition("="))
        if not model or not draft or model == draft:
            raise InvalidRequestError(
                f"setting drafts has {pair!r}: write MODEL=DRAFT, as in big=small"
            )
        name = parse_name(model).full_name
        if name in drafts:
            raise InvalidRequestError(f"setting drafts says twice who guesses for {name}")
        drafts[name] = str(ModelRef.parse(draft))
    return drafts


def find_draft(library: Finder, drafts: Mapping[str, str], version: Version) -> Version | None:
    """Return the model that guesses for ``version``, or None where none is said to.

    Raises:
        InvalidModelError: the one that is said to does not exist, or generates no text.
    """
    ref = drafts.get(version.full_name)
    if ref is None:
        return None
    try:
        draft = library.resolve(ref, "model")
    except ModelNotFoundError as error:
        raise InvalidModelError(
            f"The setting drafts says that {ref} guesses for {version.full_name}: {error.message}"
        ) from error
    if draft.manifest.get("engine") != "native" or draft.digest == version.digest:
        raise InvalidModelError(
            f"The setting drafts says that {draft.ref} guesses for {version.full_name}: that takes "
            "another, smaller model that generates text."
        )
    return draft
