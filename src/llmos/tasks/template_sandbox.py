"""One chat template in a sandboxed Jinja, as transformers renders it; runs in the helper process.

The sandbox follows transformers.utils.chat_template_utils (5.23): the same extensions, filters,
globals and refusals, with a limit on the length of the output added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

_MAX_REASON_CHARS = 500


class TemplateError(Exception):
    """The template could not be rendered; the text says why."""


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}…{% endgeneration %}``: marks the assistant's text, renders as its body."""

    tags = {"generation"}  # noqa: RUF012 - the name and kind Jinja reads

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """``dict`` without a way to its class."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """``namespace`` that takes no underscore names."""

    def __init__(*args: Any, **values: Any) -> None:
        self, given = args[0], dict(*args[1:], **values)
        for name in given:
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def render(template: str, variables: dict[str, Any], max_chars: int) -> str:
    """Return the rendered template.

    Raises:
        TemplateError: it is not valid, raised an error, or wrote more than ``max_chars``.
    """
    pieces: list[str] = []
    total = 0
    try:
        for piece in _compiled(template).generate(**variables):
            total += len(piece)
            if total > max_chars:
                raise TemplateError(f"it wrote more than {max_chars} characters.")
            pieces.append(piece)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"line {error.lineno} is not valid Jinja: {_short(error)}") from error
    except MemoryError as error:
        raise TemplateError("it used too much memory.") from error
    except RecursionError as error:
        raise TemplateError("it calls itself without end.") from error
    except TemplateError:
        raise
    except Exception as error:  # whatever a template does wrong is the template's error
        raise TemplateError(_short(error)) from error
    return "".join(pieces)


@lru_cache(maxsize=32)
def _compiled(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment.from_string(template)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r} is not allowed")


def _short(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return text if len(text) <= _MAX_REASON_CHARS else text[:_MAX_REASON_CHARS] + "…"
