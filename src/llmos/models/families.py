"""The kinds of network that llmos trains from scratch, for people and for the recipes. Torch-free.

Those that transformers has are used as they are; the others are modules beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of network.

    Attributes:
        architecture: what a recipe calls it, ``model.architecture``.
        account: what it is, in one line.
        tasks: of recipes that it can have.
        paper: where it was first described.
        recipe: one to begin with.
        module: of ours, with the classes; None where transformers has it.
        classes: of that module, a config and one for each objective.
    """

    architecture: str
    account: str
    tasks: tuple[str, ...]
    paper: str
    recipe: str
    module: str | None = None
    config: str = ""
    classes: tuple[tuple[str, str], ...] = ()


FAMILIES = (
    Family(
        "ngram",
        "counts of what came after the last few tokens, smoothed by Kneser and Ney: no gradients",
        ("generate",),
        "Chen and Goodman, 1998, An Empirical Study of Smoothing Techniques",
        "char-ngram",
        "llmos.models.ngram",
        "NgramConfig",
        (("causal_lm", "NgramForCausalLM"),),
    ),
    Family(
        "word_vectors",
        "a vector for each word, of the words it stands near: word2vec and GloVe",
        ("word_vectors",),
        "Mikolov et al., 2013, Distributed Representations of Words and Phrases",
        "word-vectors",
        "llmos.models.word_vectors",
        "WordVectorsConfig",
        (("embedding", "WordVectorsModel"),),
    ),
    Family(
        "gpt2",
        "a Transformer decoder with learned positions: writes text token by token",
        ("generate", "chat"),
        "Radford et al., 2019, Language Models are Unsupervised Multitask Learners",
        "char-gpt",
    ),
    Family(
        "llama",
        "a Transformer decoder with rotary positions, SwiGLU and RMSNorm, heads in groups",
        ("generate", "chat"),
        "Touvron et al., 2023, arXiv:2302.13971",
        "char-llama",
    ),
    Family(
        "marian",
        "a Transformer encoder-decoder: one text to another, as translation",
        ("translate",),
        "Vaswani et al., 2017, arXiv:1706.03762",
        "translate-mini",
    ),
    Family(
        "t5",
        "a Transformer encoder-decoder with relative positions: tells what is missing in a text",
        ("fill_mask", "translate"),
        "Raffel et al., 2020, arXiv:1910.10683",
        "span-mini",
    ),
    Family(
        "bert",
        "a Transformer encoder: fills in masked words, and what it learned so serves other tasks",
        ("fill_mask", "classify", "entities", "answer", "embed", "rate"),
        "Devlin et al., 2018, arXiv:1810.04805",
        "rate-mini",
    ),
    Family(
        "modernbert",
        "a Transformer encoder with rotary positions: classes of texts, labels of words, vectors",
        ("fill_mask", "classify", "entities", "answer", "embed", "rate"),
        "Warner et al., 2024, arXiv:2412.13663",
        "starter-sentiment",
    ),
    Family(
        "recurrent",
        "a network with a state that reads token by token: RNN, LSTM or GRU",
        ("generate", "chat", "classify"),
        "Hochreiter and Schmidhuber, 1997, Long Short-Term Memory",
        "char-lstm",
        "llmos.models.recurrent",
        "RecurrentConfig",
        (
            ("causal_lm", "RecurrentForCausalLM"),
            ("sequence_classification", "RecurrentForSequenceClassification"),
        ),
    ),
    Family(
        "recurrent",
        "a generator that learns from a critic what passes for a real text: SeqGAN",
        ("generate",),
        "Yu et al., 2017, arXiv:1609.05473",
        "text-seqgan",
    ),
    Family(
        "recurrent_seq2seq",
        "a recurrent encoder and decoder with attention: one text to another",
        ("translate",),
        "Bahdanau et al., 2014, arXiv:1409.0473",
        "translate-gru",
        "llmos.models.recurrent_seq2seq",
        "RecurrentSeq2SeqConfig",
        (("seq2seq", "RecurrentForConditionalGeneration"),),
    ),
    Family(
        "convolutional",
        "filters over windows of a text, the strongest answer of each: quick classes",
        ("classify",),
        "Kim, 2014, arXiv:1408.5882",
        "text-cnn",
        "llmos.models.convolutional",
        "ConvolutionalConfig",
        (("sequence_classification", "ConvolutionalForSequenceClassification"),),
    ),
    Family(
        "crf",
        "a chain of labels over the words or characters of a text, from what they look like: tags",
        ("entities",),
        "Lafferty, McCallum and Pereira, 2001, Conditional Random Fields",
        "tagger-pos-en",
        "llmos.models.crf",
        "CrfConfig",
        (("token_classification", "CrfForTokenClassification"),),
    ),
    Family(
        "biaffine",
        "which word of a sentence hangs below which, and how: dependency trees, parts of speech",
        ("parse",),
        "Dozat and Manning, 2017, arXiv:1611.01734",
        "parser-en",
        "llmos.models.biaffine",
        "BiaffineConfig",
        (("dependency_parsing", "BiaffineForDependencyParsing"),),
    ),
    Family(
        "autoencoder",
        "a text through a vector and back: short codes of short texts",
        ("generate",),
        "Rumelhart, Hinton and Williams, 1986, Learning representations by back-propagating errors",
        "text-autoencoder",
        "llmos.models.autoencoder",
        "AutoencoderConfig",
        (("causal_lm", "AutoencoderForCausalLM"), ("embedding", "AutoencoderModel")),
    ),
    Family(
        "vae",
        "a text through a distribution of vectors: texts drawn anew, and between two texts",
        ("generate",),
        "Bowman et al., 2015, arXiv:1511.06349",
        "text-vae",
        "llmos.models.autoencoder",
        "VaeConfig",
        (("causal_lm", "VaeForCausalLM"), ("embedding", "VaeModel")),
    ),
)
