"""A grammar as llguidance takes it, within limits of time and memory. Loads no torch.

The engine compiles for its tokenizer, the server's checking helper for a stand-in; both here, so
that what passes the check compiles in the engine. llguidance is imported where something is
compiled: the server only writes grammars.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from llmos.errors import GrammarError
from llmos.types import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_COMPACT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""JSON on one line, as models were taught to write calls. Where more white space may come, a model
that is unsure of what comes next writes that instead, token after token."""
_SPACED = {"whitespace_pattern": r"( |\r?\n[ \t]{0,64})"}
"""For a schema that asks for white space: wherever JSON allows any, but not without a bound."""
MAX_REASON_CHARS = 500
_PLACE = re.compile(r"(?:at )?(\d+)\((\d+)\): ")
_EXCERPT = re.compile(r"\n +\d+ \| .*", re.DOTALL)
"""The lines of Lark that llguidance quotes below an error, with a caret."""
NOT_WRITABLE = "this model's vocabulary cannot write what it asks for."
_NO_FORCING = '%llguidance {"no_forcing": true}'
"""A text that the grammar forces may come in any tokens, so those the model likes best: to force
the usual ones would take a second tokenizer, of as much memory again."""


LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,  # about 20 ms
    "step_lexer_fuel": 200_000,  # about 15 ms
    "step_max_items": 50_000,  # about 3 ms
    "max_items_in_row": 2_000,
    "max_lexer_states": 50_000,  # about 100 MB
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
"""Of time and memory, by llguidance's names."""


class Matcher(Protocol):
    """Where a text is in a grammar; see llguidance's LLMatcher."""

    def deep_copy(self) -> Self: ...
    def compute_bitmask(self) -> bytes: ...
    def consume_token(self, token_id: int, /) -> bool: ...
    def consume_tokens(self, token_ids: list[int], /) -> bool: ...
    def is_error(self) -> bool: ...
    def get_error(self) -> str: ...
    def is_accepting(self) -> bool: ...
    def is_stopped(self) -> bool: ...


M = TypeVar("M", bound=Matcher)


def python_matchers(tokenizer: LLTokenizer) -> Callable[[str], LLMatcher]:
    """Return what makes llguidance's own matchers of Lark grammars."""
    from llguidance import LLMatcher

    def matcher(lark: str) -> LLMatcher:
        source = LLMatcher.grammar_from_lark(lark)
        return LLMatcher(tokenizer, source, log_level=0, limits=_limits())

    return matcher


def compile_grammar(
    matcher_of: Callable[[str], M], grammar: Grammar, *, writes_anything: bool = False
) -> M:
    """Return the grammar's matcher at the start of a text.

    Args:
        matcher_of: makes a matcher of a Lark grammar, over some vocabulary.
        writes_anything: every text can be written in that vocabulary.

    Raises:
        GrammarError: it is not valid, asks for what llguidance cannot enforce, or is too large.
    """
    lark = _lark(grammar)
    matcher = _begun(matcher_of(f"{lark}\n{_NO_FORCING}\n"))
    if not matcher.is_error():
        return matcher
    if grammar.kind == "lark" and _PLACE.match(matcher.get_error()):
        alone = _begun(matcher_of(lark))  # says what is wrong without a line that nobody wrote
        matcher = alone if alone.is_error() else matcher
    why = reason(matcher)
    if place := _PLACE.match(why):
        line, column = place.groups()
        # Where it is in the Lark that stands for a schema tells nobody anything.
        where = f"line {line}, column {column}: " if grammar.kind == "lark" else ""
        why = where + why[place.end() :]
    if why == NOT_WRITABLE and writes_anything:
        why = "no text matches it: it asks for itself, or for what never ends."
    raise GrammarError(f"{_NAMES[grammar.kind]}: {why}")


def _begun(matcher: M) -> M:
    if not matcher.is_error():
        matcher.compute_bitmask()  # builds what the first token needs, and may be where limits bite
    return matcher


def reason(matcher: Matcher) -> str:
    """Return why a matcher failed, in a line."""
    told = _EXCERPT.sub("", matcher.get_error().replace("<non-verbose/>", ""))
    text = " ".join(told.split())
    if text == "NoExtensionBias":
        return NOT_WRITABLE
    return text if len(text) <= MAX_REASON_CHARS else text[:MAX_REASON_CHARS] + "…"


@lru_cache(maxsize=1)
def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(**LIMITS)


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
    """Return what stands in a Lark rule for any JSON value of the schema.

    Compact JSON with at most a space after ``,`` and ``:``, unless its ``x-guidance`` says else.
    """
    own = schema.get("x-guidance", {})
    if not isinstance(own, dict):
        raise ValueError("x-guidance must be an object")
    is_spaced = own.get("whitespace_flexible") or "whitespace_pattern" in own
    options = {**(_SPACED if is_spaced else _COMPACT), **own}
    return f"%json {json.dumps(schema | {'x-guidance': options})}"
