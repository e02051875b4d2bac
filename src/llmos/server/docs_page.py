"""The OpenAPI description as one plain HTML page, which needs no script and no network."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

Schema = dict[str, Any]
_MAX_DEPTH = 4
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "maxLength": "length at most",
    "minItems": "items at least",
    "maxItems": "items at most",
}
_CODE = re.compile(r"(`{1,2})([^`]+)\1")


def render_docs(spec: Schema, css: str) -> str:
    """Return the page for an OpenAPI document."""
    operations: dict[str, list[str]] = {}
    for path, methods in spec.get("paths", {}).items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            operations.setdefault(tag, []).append(_operation(spec, method, path, operation))
    nav = "".join(f'<a href="#{_anchor(tag)}">{escape(tag)}</a>' for tag in operations)
    sections = "".join(
        f'<section><h2 id="{_anchor(tag)}">{escape(tag)}</h2>{"".join(items)}</section>'
        for tag, items in operations.items()
    )
    info = spec.get("info", {})
    title = f"{escape(str(info.get('title', '')))} {escape(str(info.get('version', '')))}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{css}</style></head><body><main>"
        f"<h1>{title}</h1>{_paragraphs(str(info.get('description', '')))}"
        f"<nav>{nav}</nav>{sections}</main></body></html>"
    )


def _operation(spec: Schema, method: str, path: str, operation: Schema) -> str:
    summary = str(operation.get("description") or operation.get("summary") or "")
    first, _, rest = summary.partition("\n")
    rows = [_parameter(spec, parameter) for parameter in operation.get("parameters", ())]
    inside = _paragraphs(rest) + _table(rows) + _body(spec, operation.get("requestBody"))
    head = (
        f'<span class="method {escape(method)}">{escape(method.upper())}</span>'
        f"<code>{escape(path)}</code><span>{_marked(first)}</span>"
    )
    return f"<details><summary>{head}</summary>{inside or '<p>No parameters.</p>'}</details>"


def _parameter(spec: Schema, parameter: Schema) -> str:
    name = escape(str(parameter["name"]))
    where = escape(str(parameter["in"]))
    schema = parameter.get("schema", {})
    need = "required" if parameter.get("required") else _default(schema)
    return _row(name, f"{escape(_type(spec, schema))} <i>in {where}</i>", need, schema)


def _body(spec: Schema, body: Schema | None) -> str:
    if body is None:
        return ""
    kind, content = next(iter(body["content"].items()))
    schema = _resolved(spec, content.get("schema", {}))
    text = f"<h3>Body <i>{escape(kind)}</i></h3>{_paragraphs(str(schema.get('description', '')))}"
    return text + _fields(spec, schema)


def _fields(spec: Schema, schema: Schema) -> str:
    required = set(schema.get("required", ()))
    return _table(
        [
            _row(
                escape(name),
                escape(_type(spec, field)),
                "required" if name in required else _default(field),
                field,
            )
            for name, field in schema.get("properties", {}).items()
        ]
    )


def _row(name: str, kind: str, need: str, schema: Schema) -> str:
    given = {**schema, **{key: one[key] for one in schema.get("anyOf", ()) for key in one}}
    limits = ", ".join(
        f"{word} {escape(json.dumps(given[key]))}" for key, word in _LIMITS.items() if key in given
    )
    return f"<tr><td><code>{name}</code></td><td>{kind}</td><td>{need}</td><td>{limits}</td></tr>"


def _table(rows: list[str]) -> str:
    if not rows:
        return ""
    head = "<tr><th>name</th><th>type</th><th>default</th><th>limits</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _default(schema: Schema) -> str:
    default = schema.get("default")
    return "" if default is None else escape(json.dumps(default))


def _type(spec: Schema, schema: Schema, depth: int = 0) -> str:
    """Return a schema's type in a few words."""
    schema = _resolved(spec, schema)
    if depth > _MAX_DEPTH:
        return "…"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            kinds = (_type(spec, one, depth + 1) for one in schema[key])
            return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_type(spec, schema.get('items', {}), depth + 1)}"
    if kind == "object" and "properties" in schema:
        return "{" + ", ".join(schema["properties"]) + "}"
    return kind


def _resolved(spec: Schema, schema: Schema) -> Schema:
    """Follow a reference into the components."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found = spec
    for part in str(reference).removeprefix("#/").split("/"):
        found = found[part]
    return found


def _paragraphs(text: str) -> str:
    parts = (part.strip() for part in text.split("\n\n"))
    return "".join(f"<p>{_marked(part)}</p>" for part in parts if part)


def _marked(text: str) -> str:
    """Escape a text; what stands between backquotes becomes code."""
    return _CODE.sub(r"<code>\2</code>", escape(text))


def _anchor(tag: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in tag.lower())
