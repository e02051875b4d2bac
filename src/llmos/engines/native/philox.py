"""A counter-based random stream: the number for a token is a pure function of where it is.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), in integers,
so that any process, device or batch that asks for (seed, choice, position) gets the same number.
"""

from __future__ import annotations

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    """Return four 32-bit words for four counter words and two key words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (second >> 32) ^ c1 ^ k0,
            second & _WORD,
            (first >> 32) ^ c3 ^ k1,
            first & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, choice: int, position: int) -> float:
    """Return the number in [0, 1), with 53 random bits, of one token.

    Args:
        seed: of the request; taken modulo 2**64.
        choice: which of the request's ``n`` answers.
        position: how many tokens the answer had before this one.
    """
    counter = (position & _WORD, position >> 32, choice & _WORD, choice >> 32)
    high, low, _, _ = philox4x32(counter, (seed & _WORD, (seed >> 32) & _WORD))
    return ((high << 21) | (low >> 11)) * 2.0**-53
