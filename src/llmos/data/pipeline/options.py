"""What options of operators name: models and their labels, fields that are read or added. By what
they declare a wrong one is found before a job begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

_MODEL, _LABEL, _READS, _ADDS = "model_for", "label_of", "reads", "adds"
Columns = Mapping[str, str]
"""Name -> string, integer, number, boolean or json; empty where that is not known."""


def _made_for(*tasks: str) -> Any:
    return Field(min_length=1, json_schema_extra={_MODEL: [*tasks]})


def _read(*kinds: str) -> Any:
    return Field(min_length=1, json_schema_extra={_READS: [*kinds]})


ModelName = Annotated[str, _made_for()]
"""An option that names a model of the library. It is pinned to a version when the job is queued,
and is part of the lineage of the dataset. Those below name one that is made for a task."""
ChatModel = Annotated[str, _made_for("chat", "generate")]
LanguageModel = Annotated[str, _made_for("chat", "generate")]
Classifier = Annotated[str, _made_for("classify")]
Tagger = Annotated[str, _made_for("entities")]
Translator = Annotated[str, _made_for("translate")]
Embedder = Annotated[str, _made_for("embed")]
Parser = Annotated[str, _made_for("parse")]
MaskFiller = Annotated[str, _made_for("fill_mask")]
LabelName = Annotated[str, Field(json_schema_extra={_LABEL: "model"})]
"""A label of the model that the option ``model`` names."""

FieldName = Annotated[str, _read()]
"""An option that names a field which is read, whatever it holds."""
TextField = Annotated[str, _read("string", "json")]
"""One with a text, or with messages."""
ListField = Annotated[str, _read("json")]
"""One with a list."""
NewField = Annotated[str, Field(min_length=1, json_schema_extra={_ADDS: True})]
"""An option that names a field which records get."""


def model_options(options_type: type[BaseModel]) -> dict[str, list[str]]:
    """Return the options that name models, and the tasks of which these are to have one; none for
    any."""
    return dict(_marked(options_type, _MODEL))


def label_options(options_type: type[BaseModel]) -> dict[str, str]:
    """Return the options that name labels, and those that name the models which have them."""
    return dict(_marked(options_type, _LABEL))


def names_in(options: Mapping[str, Any], option: str) -> list[str]:
    """Return what an option names: nothing, one, or several."""
    given = options.get(option)
    return [given] if isinstance(given, str) else list(given or ())


def added_fields(options: BaseModel) -> list[str]:
    """Return the fields that records get by options."""
    given = options.model_dump()
    return [name for option, _ in _marked(type(options), _ADDS) for name in names_in(given, option)]


def wrong_field(options: BaseModel, columns: Columns, shown: str) -> str | None:
    """Return what is wrong with the fields that options read, None where nothing is.

    Args:
        columns: those that there are.
        shown: what the dataset is called that has them.
    """
    given = options.model_dump()
    for option, kinds in _marked(type(options), _READS):
        for name in names_in(given, option):
            if name not in columns:
                has = ", ".join(columns) or "nothing"
                return f"no row of {shown} has a field {name[:80]!r}, only {has}: set `{option}`"
            kind = columns[name]
            if kinds and kind and kind not in kinds:
                wanted = "text" if "string" in kinds else "lists"
                return (
                    f"the field {name[:80]!r} of {shown} holds no {wanted} (it is of type {kind}): "
                    f"set `{option}`"
                )
    return None


def _marked(options_type: type[BaseModel], mark: str) -> Iterator[tuple[str, Any]]:
    for option, told in options_type.model_json_schema().get("properties", {}).items():
        parts: Sequence[Any] = (told, *told.get("anyOf", ()), told.get("items", {}))
        yield from ((option, part[mark]) for part in parts if mark in part)
