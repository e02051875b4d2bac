"""A grammar as llguidance takes it, within limits of time and memory. Loads no torch.

The engine compiles for its tokenizer, the server's checking helper for a stand-in; both here, so
that what passes the check compiles in the engine. llguidance is imported where something is
compiled: the server only writes grammars.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llmos.errors import GrammarError
from llmos.types import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_WHITESPACE = r"( |\r?\n[ \t]{0,64})"
"""Allowed once wherever JSON allows any: without a bound a model can write spaces for ever."""
MAX_REASON_CHARS = 500
_PLACE = re.compile(r"^at \d+\(\d+\): ")
_NO_FORCING = '%llguidance {"no_forcing": true}'
"""A text that the grammar forces may come in any tokens, so those the model likes best: to force
the usual ones would take a second tokenizer, of as much memory again."""


def compile_grammar(tokenizer: LLTokenizer, grammar: Grammar) -> LLMatcher:
    """Return the grammar's matcher at the start of a text.

    Raises:
        GrammarError: it is not valid, asks for what llguidance cannot enforce, or is too large.
    """
    from llguidance import LLMatcher

    source = LLMatcher.grammar_from_lark(f"{_lark(grammar)}\n{_NO_FORCING}\n")
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=_limits())
    if not matcher.is_error():
        matcher.compute_bitmask()  # builds what the first token needs, and may be where limits bite
    if matcher.is_error():
        why = reason(matcher)
        if grammar.kind != "lark":  # where it is in the Lark that stands for it tells nobody
            why = _PLACE.sub("", why).partition(" 1 | start:")[0]
        raise GrammarError(f"{_NAMES[grammar.kind]}: {why}")
    return matcher


def reason(matcher: LLMatcher) -> str:
    """Return why a matcher failed, in a line."""
    text = " ".join(matcher.get_error().replace("<non-verbose/>", "").split())
    if text == "NoExtensionBias":
        return "this model's vocabulary cannot write what it asks for."
    return text if len(text) <= MAX_REASON_CHARS else text[:MAX_REASON_CHARS] + "…"


@lru_cache(maxsize=1)
def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=1_000_000,  # about 20 ms
        step_lexer_fuel=200_000,  # about 15 ms
        step_max_items=50_000,  # about 3 ms
        max_items_in_row=2_000,
        max_lexer_states=50_000,  # about 100 MB
        max_grammar_size=200_000,
        verbose_errors=False,
    )


_NAMES = {
    "json_object": "The JSON grammar",
    "json_schema": "The JSON schema",
    "regex": "The regular expression",
    "choice": "The choices",
    "lark": "The Lark grammar",
}


def _lark(grammar: Grammar) -> str:
    """Return the grammar in llguidance's dialect of Lark."""
    from llguidance import regex_to_lark

    try:
        match grammar.kind:
            case "json_object":
                return f"start: {json_rule({'type': 'object'})}"
            case "json_schema":
                return f"start: {json_rule(json.loads(grammar.source))}"
            case "regex":
                return f"start: /{regex_to_lark(grammar.source, 'd')}/"  # \d: 0 to 9
            case "choice":
                choices = (
                    json.dumps(one, ensure_ascii=False) for one in json.loads(grammar.source)
                )
                return f"start: CHOICE\nCHOICE: {' | '.join(choices)}"
            case "lark":
                return grammar.source
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"{_NAMES[grammar.kind]} cannot be read: {error}") from error


def json_rule(schema: dict[str, Any]) -> str:
    """Return what stands in a Lark rule for any JSON value of the schema."""
    options = {"whitespace_pattern": _WHITESPACE, **schema.get("x-guidance", {})}
    return f"%json {json.dumps(schema | {'x-guidance': options})}"
