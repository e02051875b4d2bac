"""Whether a grammar compiles, for any tokenizer; runs in the helper process of ``grammar``."""

from __future__ import annotations

import re
from typing import cast

from llguidance import LLTokenizer, TokenizerWrapper

from llmos.engines.grammars import compile_grammar, python_matchers
from llmos.errors import GrammarError
from llmos.types import Grammar

_NUM_IDS = 2**19
"""Token ids that a Lark grammar may name; which there are is for the model's engine to say."""
_SPECIAL_NAME = re.compile(rb"<[^\s<>\[\]]+>")


class _StandIn:
    """Every byte a token, and the special tokens that a grammar names; see ``LLTokenizer``."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256

    def __init__(self, source: bytes) -> None:
        specials = [b"</s>", *sorted(set(_SPECIAL_NAME.findall(source)) - {b"</s>"})]
        self.tokens = [*(bytes([byte]) for byte in range(256)), *specials]
        self.special_token_ids = list(range(256, 256 + len(specials)))
        if b"<[" in source:
            self.tokens += [b""] * (_NUM_IDS - len(self.tokens))

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


def refusal(grammar: Grammar) -> str | None:
    """Return why the grammar cannot be used; None: it compiles."""
    source = grammar.source.encode() if grammar.kind == "lark" else b""
    try:
        stand_in = cast(TokenizerWrapper, _StandIn(source))
        tokenizer = LLTokenizer(stand_in, slices=[])
        compile_grammar(python_matchers(tokenizer), grammar, writes_anything=True)
    except GrammarError as error:
        return error.message
    return None
