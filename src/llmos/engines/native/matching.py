"""llguidance as an engine needs it: no call of it that takes long holds up the other threads.

Its Python classes build a vocabulary's search tree while they hold the lock that every thread
needs, for a large one most of a second. The C interface of the same library (``llguidance.h``) is
called without that lock. Where a build of it has none, or one that is not laid out as here, the
classes do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_bool, c_char_p, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import llguidance
from llguidance import LLTokenizer, TokenizerWrapper

from llmos.engines.grammars import LIMITS, Matcher, python_matchers
from llmos.engines.native.vocabulary import Vocabulary
from llmos.errors import EngineError

_MESSAGE_BYTES = 1024


class _TokenizerInit(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("vocab_size", c_uint32),
        ("tok_eos", c_uint32),
        ("token_lens", c_char_p),
        ("token_bytes", c_char_p),
        ("tokenizer_json", c_char_p),
        ("tokenize_assumes_string", c_bool),
        ("tokenize_fn", c_void_p),
        ("use_approximate_greedy_tokenize_fn", c_bool),
        ("tokenize_user_data", c_void_p),
        ("slices", c_void_p),
        ("tok_eos_extra", ctypes.POINTER(c_uint32)),
        ("tok_eos_extra_count", c_uint32),
    )


class _Limits(ctypes.Structure):
    _fields_ = (
        ("max_items_in_row", c_size_t),
        ("initial_lexer_fuel", c_uint64),
        ("step_lexer_fuel", c_uint64),
        ("step_max_items", c_size_t),
        ("max_lexer_states", c_size_t),
        ("max_grammar_size", c_size_t),
        ("precompute_large_lexemes", c_bool),
        ("verbose_errors", c_bool),
    )


class _MatcherInit(ctypes.Structure):
    _fields_ = (
        ("tokenizer", c_void_p),
        ("log_buffer_level", c_uint32),
        ("log_stderr_level", c_uint32),
        ("ff_tokens_ok", c_bool),
        ("backtrack_ok", c_bool),
        ("limits", _Limits),
        ("reserved", ctypes.c_uint8 * 256),  # what a later version may add
    )


_DEFAULTS = (2000, 1_000_000, 200_000, 50_000, 250_000, 500_000, True, True)
"""Of the limits, in their order: found where they should be, the structures are as they were."""
_SLOW = {
    "llg_new_tokenizer_v2": ((c_void_p, c_char_p, c_size_t), c_void_p),
    "llg_new_matcher": ((c_void_p, c_char_p, c_char_p), c_void_p),
    "llg_matcher_compute_mask_into": ((c_void_p, c_char_p, c_size_t), c_int32),
    "llg_matcher_consume_tokens": (
        (c_void_p, ctypes.POINTER(c_uint32), c_size_t),
        c_int32,
    ),
    "llg_free_tokenizer": ((c_void_p,), None),
}
"""Functions that take long, called without Python's lock: what they take and give."""
_QUICK = {
    "llg_constraint_init_set_defaults": ((c_void_p, c_void_p), None),
    "llg_clone_matcher": ((c_void_p,), c_void_p),
    "llg_matcher_get_mask_byte_size": ((c_void_p,), c_size_t),
    "llg_matcher_consume_token": ((c_void_p, c_uint32), c_int32),
    "llg_matcher_is_error": ((c_void_p,), c_bool),
    "llg_matcher_get_error": ((c_void_p,), c_char_p),
    "llg_matcher_is_accepting": ((c_void_p,), c_bool),
    "llg_matcher_is_stopped": ((c_void_p,), c_bool),
    "llg_free_matcher": ((c_void_p,), None),
}
"""Functions for which taking the lock again would cost more than they do."""


@dataclass(frozen=True, slots=True)
class Library:
    """The C interface: the functions that give the lock up, and those that keep it."""

    slow: ctypes.CDLL
    quick: ctypes.PyDLL


@lru_cache(maxsize=1)
def library() -> Library | None:
    """Return the C interface, or None where there is none that is known here."""
    path = llguidance._lib.__file__
    found = Library(ctypes.CDLL(path), ctypes.PyDLL(path))
    try:
        for loaded, functions in ((found.slow, _SLOW), (found.quick, _QUICK)):
            for name, (takes, gives) in functions.items():
                function = getattr(loaded, name)
                function.argtypes, function.restype = takes, gives
    except AttributeError:
        return None
    limits = _new_init(found, None).limits
    defaults = tuple(getattr(limits, name) for name, *_ in _Limits._fields_)
    return found if defaults == _DEFAULTS else None


def matchers(vocabulary: Vocabulary) -> Callable[[str], Matcher]:
    """Return what makes a matcher of a Lark grammar over this vocabulary.

    Raises:
        EngineError: llguidance cannot use the vocabulary.
    """
    found = library()
    if found is not None:
        return Tokenizer(found, vocabulary).matcher
    wrapper = cast(TokenizerWrapper, _Wrapper(vocabulary))
    return python_matchers(LLTokenizer(wrapper, eos_token=list(vocabulary.eos_ids)))


class Tokenizer:
    """A vocabulary's search tree."""

    def __init__(self, library: Library, vocabulary: Vocabulary) -> None:
        self._library = library
        first, *others = vocabulary.eos_ids
        init = _TokenizerInit(
            struct_size=ctypes.sizeof(_TokenizerInit),
            vocab_size=vocabulary.num_tokens,
            tok_eos=first,
            token_lens=vocabulary.sizes,
            token_bytes=vocabulary.text,
            use_approximate_greedy_tokenize_fn=True,  # ours force no text (see `grammars`)
            tok_eos_extra=(c_uint32 * len(others))(*others) if others else None,
            tok_eos_extra_count=len(others),
        )
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        pointer = library.slow.llg_new_tokenizer_v2(ctypes.byref(init), message, _MESSAGE_BYTES)
        if not pointer:
            reason = message.value.decode("utf-8", "replace")
            raise EngineError(f"Grammars cannot be followed in this model's vocabulary: {reason}")
        self.pointer: int = pointer

    def __del__(self) -> None:
        if pointer := getattr(self, "pointer", None):
            self._library.slow.llg_free_tokenizer(pointer)

    def matcher(self, lark: str) -> CMatcher:
        """Return the matcher of a grammar; where it is of no use, the matcher says why."""
        init = _new_init(self._library, self.pointer)
        init.log_stderr_level = 0
        for name, value in LIMITS.items():
            setattr(init.limits, name, value)
        # A text in C ends at its first zero byte; in Lark that can only be part of a mistake.
        source = lark.replace("\0", "\N{SYMBOL FOR NULL}").encode()
        pointer = self._library.slow.llg_new_matcher(ctypes.byref(init), b"lark", source)
        return CMatcher(self._library, self, pointer)


class CMatcher:
    """A matcher of the C interface (see `Matcher`). Used by one thread at a time."""

    def __init__(self, library: Library, tokenizer: Tokenizer, pointer: int) -> None:
        self._library = library
        self._tokenizer = tokenizer  # outlives its matchers
        self._pointer = pointer

    def __del__(self) -> None:
        self._library.quick.llg_free_matcher(self._pointer)

    def deep_copy(self) -> CMatcher:
        pointer = self._library.quick.llg_clone_matcher(self._pointer)
        return CMatcher(self._library, self._tokenizer, pointer)

    def compute_bitmask(self) -> bytes:
        size: int = self._library.quick.llg_matcher_get_mask_byte_size(self._pointer)
        mask = ctypes.create_string_buffer(size)
        self._library.slow.llg_matcher_compute_mask_into(self._pointer, mask, size)
        return mask.raw

    def consume_token(self, token_id: int) -> bool:
        return bool(self._library.quick.llg_matcher_consume_token(self._pointer, token_id) == 0)

    def consume_tokens(self, token_ids: Sequence[int]) -> bool:
        ids = (c_uint32 * len(token_ids))(*token_ids)
        consume = self._library.slow.llg_matcher_consume_tokens
        return bool(consume(self._pointer, ids, len(ids)) == 0)

    def is_error(self) -> bool:
        return bool(self._library.quick.llg_matcher_is_error(self._pointer))

    def get_error(self) -> str:
        message: bytes | None = self._library.quick.llg_matcher_get_error(self._pointer)
        return (message or b"").decode("utf-8", "replace")

    def is_accepting(self) -> bool:
        return bool(self._library.quick.llg_matcher_is_accepting(self._pointer))

    def is_stopped(self) -> bool:
        return bool(self._library.quick.llg_matcher_is_stopped(self._pointer))


def _new_init(library: Library, tokenizer: int | None) -> _MatcherInit:
    init = _MatcherInit()
    library.quick.llg_constraint_init_set_defaults(ctypes.byref(init), tokenizer)
    return init


class _Wrapper:
    """A vocabulary as LLTokenizer asks for it: its attributes' names are llguidance's."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.tokens()
        self.special_token_ids: list[int] = []  # they are marked already
        self.eos_token_id = vocabulary.eos_ids[0]

    def __call__(self, text: str) -> list[int]:
        """Tokenise what a grammar forces; ours force nothing."""
        return []
