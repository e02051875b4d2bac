"""Tokenizers trained on the data: one token a character, or byte-level BPE.

All they do (splitting, special tokens, what is added around a text, decoding) lives in the
`tokenizers.Tokenizer`, since the server reads nothing but tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers import trainers as bpe_trainers

CJK, PUNCTUATION, DIGITS = r"\p{Han}\p{Hiragana}\p{Katakana}", r"\p{P}\p{S}", r"\p{N}"
ANY_CHARACTER = r"[\s\S]"
READING_TASKS = frozenset({"classify", "entities", "fill_mask", "answer", "embed", "rate", "parse"})
"""Of models that read a text and write none."""
PAD, UNKNOWN = "<pad>", "<unk>"


@dataclass(frozen=True, slots=True)
class Specials:
    """Special tokens of a model; ``None`` where it has none. ``more`` are further ones."""

    pad: str
    eos: str
    bos: str | None = None
    unk: str | None = None
    before: str | None = None
    after: str | None = None
    """``before`` and ``after`` are put around every text the model reads."""
    mask: str | None = None
    sentinels: tuple[str, ...] = ()
    """In place of spans that are to be told."""
    more: tuple[str, ...] = ()

    def all(self) -> list[str]:
        """Each special token once; the padding token comes first and so gets id 0."""
        around = (self.before, self.after)
        named = (self.pad, self.bos, self.eos, self.unk, *around, self.mask)
        every = (*named, *self.sentinels, *self.more)
        return list(dict.fromkeys(token for token in every if token))


def specials_of(task: str, more: Sequence[str] = (), end_token: str | None = None) -> Specials:
    """The special tokens a model of ``task`` is given by default."""
    extra = tuple(more)
    if task == "word_vectors":
        return Specials(PAD, UNKNOWN, unk=UNKNOWN, more=extra)
    if task == "translate":
        return Specials("<pad>", "</s>", after="</s>", more=extra)
    if task in READING_TASKS:
        mask = "[MASK]" if task == "fill_mask" else None
        return Specials("[PAD]", "[SEP]", before="[CLS]", after="[SEP]", mask=mask, more=extra)
    text_end = "<|endoftext|>"
    return Specials(text_end, end_token or text_end, bos=text_end, more=extra)


@dataclass(frozen=True, slots=True)
class Splitting:
    """How byte-level BPE cuts text before it merges bytes.

    Each CJK character, punctuation mark or digit may stand alone. ``drop_spaces`` makes a word the
    same wherever it stands, for models that only read: such tokens do not decode to the exact text.
    """

    cjk: bool = False
    punctuation: bool = False
    digits: bool = False
    drop_spaces: bool = False
    lowercase: bool = False


def train_character(texts: Iterable[str], specials: Specials) -> Tokenizer:
    """A tokenizer of the characters in ``texts``, in code point order; others become ``<unk>``."""
    characters = sorted({character for text in texts for character in text})
    unknown = specials.unk or "<unk>"
    vocabulary = dict.fromkeys([*specials.all(), unknown, *characters])
    tokenizer = Tokenizer(
        models.WordLevel({token: index for index, token in enumerate(vocabulary)}, unknown)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(ANY_CHARACTER), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([*specials.all(), unknown])
    _surround(tokenizer, specials, [])
    return tokenizer


def train_words(
    texts: Iterable[str], specials: Specials, vocab_size: int, min_count: int, splitting: Splitting
) -> Tokenizer:
    """A tokenizer of the ``vocab_size`` most frequent words that are there ``min_count`` times at
    least, the most frequent first; others become the unknown token.

    A word is a run of letters and digits, with apostrophes and hyphens inside, or a run of CJK
    characters, as between the spaces of a text that was cut into words; with ``cjk`` each CJK
    character is a word. Everything else parts words, or, with ``punctuation``, punctuation is
    words, too.
    """
    unknown = specials.unk or UNKNOWN
    tokenizer = Tokenizer(models.WordLevel({unknown: 0}, unknown))
    _split_words(tokenizer, splitting)
    tokenizer.train_from_iterator(
        texts,
        bpe_trainers.WordLevelTrainer(
            vocab_size=vocab_size,
            min_frequency=min_count,
            special_tokens=list(dict.fromkeys([*specials.all(), unknown])),
            show_progress=False,
        ),
    )
    _surround(tokenizer, specials, [])
    return tokenizer


def given_words(words: Iterable[str], specials: Specials, splitting: Splitting) -> Tokenizer:
    """As `train_words`, of these words, in their order behind the special tokens."""
    unknown = specials.unk or UNKNOWN
    special = list(dict.fromkeys([*specials.all(), unknown]))
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unknown))
    _split_words(tokenizer, splitting)
    tokenizer.add_special_tokens(special)
    _surround(tokenizer, specials, [])
    return tokenizer


def _split_words(tokenizer: Tokenizer, splitting: Splitting) -> None:
    if splitting.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    letter = rf"[[\p{{L}}\p{{M}}\p{{N}}]&&[^{CJK}]]"
    words = [f"[{CJK}]" if splitting.cjk else f"[{CJK}]+", f"{letter}+(?:['’-]{letter}+)*"]
    words += [f"[{PUNCTUATION}]"] if splitting.punctuation else []
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(words)), "removed", invert=True)


def words_between_spaces(tokens: Sequence[str]) -> Tokenizer:
    """A tokenizer of these words, UNKNOWN among them: what stands between spaces is one."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([token for token in (PAD, UNKNOWN) if token in vocabulary])
    return tokenizer


def train_byte_bpe(
    texts: Iterable[str], specials: Specials, vocab_size: int, splitting: Splitting
) -> Tokenizer:
    """A byte-level BPE of at most ``vocab_size`` tokens, special ones included. Round trips."""
    tokenizer = Tokenizer(models.BPE())
    if splitting.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_pre_tokenizers(splitting))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        bpe_trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[_added(token, specials) for token in specials.all()],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            min_frequency=2,
            show_progress=False,
        ),
    )
    _surround(tokenizer, specials, [processors.ByteLevel(trim_offsets=True)])
    return tokenizer


def _added(token: str, specials: Specials) -> str | AddedToken:
    """Have a mask take the space before it, which is part of the word that it stands for."""
    if token not in (specials.mask, *specials.sentinels):
        return token
    return AddedToken(token, lstrip=True, special=True, normalized=False)


def _pre_tokenizers(splitting: Splitting) -> list[pre_tokenizers.PreTokenizer]:
    parts: list[pre_tokenizers.PreTokenizer] = []
    if splitting.drop_spaces:
        parts.append(pre_tokenizers.WhitespaceSplit())
    wanted = zip(
        (CJK, PUNCTUATION, DIGITS),
        (splitting.cjk, splitting.punctuation, splitting.digits),
        strict=True,
    )
    if alone := "".join(characters for characters, split in wanted if split):
        parts.append(pre_tokenizers.Split(Regex(f"[{alone}]"), "isolated"))
    parts.append(
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not splitting.drop_spaces)
    )
    return parts


def _surround(
    tokenizer: Tokenizer, specials: Specials, first: list[processors.PostProcessor]
) -> None:
    around = [token for token in (specials.before, specials.after) if token]
    steps = list(first)
    if around:
        pattern = " ".join(filter(None, [specials.before, "$A", specials.after]))
        ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(around)]
        after = specials.after or ""
        pair = f"{pattern} $B:1 {after and f'{after}:1'}".strip()
        steps.append(processors.TemplateProcessing(single=pattern, pair=pair, special_tokens=ids))
    if steps:
        tokenizer.post_processor = processors.Sequence(steps)
