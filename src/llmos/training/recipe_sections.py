"""The sections of a recipe, with what each key means and its bounds. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmos.types import VECTOR_FILES

OptimizerKind = Literal["sgd", "rmsprop", "adam", "adamw", "adafactor", "lion", "muon"]
Schedule = Literal["constant", "linear", "cosine", "inverse_sqrt", "wsd", "plateau"]
MOMENTUM_KINDS = frozenset({"sgd", "rmsprop", "muon"})
ELEMENTWISE_KINDS = frozenset({"sgd", "rmsprop", "adam", "adamw", "lion"})
"""Those that step each weight by itself, so that they can be kept in parts."""
Share = Annotated[float, Field(ge=0, lt=1)]
STARTER, DATASET, FEEDBACK = "starter:", "dataset:", "feedback:"
PROVIDED = (STARTER, DATASET, FEEDBACK)
"""What the names of data begin with that is in no file of the user's."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class ModelSection(Section):
    """A fresh network of a transformers architecture, or a library model to go on from."""

    architecture: str | None = None
    config: dict[str, Any] = {}
    base: str | None = None
    vectors: str | None = Field(default=None, min_length=1)
    """Word vectors that embeddings begin with: a library model, or a file of the text format."""
    freeze_vectors: bool = False
    """Keep the embeddings as they begin."""
    freeze: list[str] = []
    """Parameter name patterns (`*.bias`) that keep their first value."""
    train_only: list[str] = []
    """Name patterns of all that is trained, the rest keeps its first value; `head` stands for what
    the network ends in."""

    @property
    def vectors_file(self) -> str | None:
        """The file that `vectors` names, where it does."""
        named = self.vectors or ""
        return named if named.endswith(VECTOR_FILES) else None


class AdapterSection(Section):
    """A LoRA that is trained over `model.base`, which stays as it is."""

    rank: int = Field(default=8, ge=1, le=1024)
    alpha: int = Field(default=16, ge=1)
    """What it adds is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Linear layers by the end of their names (`q_proj`)."""


class DpoSection(Section):
    """Direct preference optimisation."""

    beta: float = Field(default=0.1, gt=0)
    """The higher, the nearer the model stays to what it began as."""


class LatentSection(Section):
    """How a network with a bottleneck learns; all but `word_dropout` are for objective elbo."""

    kl_schedule: Literal["constant", "linear", "cyclical"] = "linear"
    kl_weight: float = Field(default=1.0, ge=0)
    """At its highest; above 1 is a beta-VAE's."""
    kl_steps: int | None = Field(default=None, ge=1)
    """In which `linear` gets there; half of the steps unless told."""
    kl_cycles: int = Field(default=4, ge=1)
    """Of `cyclical`."""
    free_bits: float = Field(default=0.0, ge=0)
    """Nats of KL that each number of the vector has at no cost."""
    word_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the tokens before each that the writer is not shown."""


class ContrastiveSection(Section):
    """Texts that belong together are drawn together, the others of a batch apart."""

    temperature: float = Field(default=0.05, gt=0)
    """Cosines are divided by it: the lower, the more the nearest others count."""
    pooling: Literal["mean", "cls", "last"] = "mean"
    """Of the hidden states of a text's tokens: their mean, the first or the last."""


class SpansSection(Section):
    """What of a text is taken out, to be written again."""

    share: float = Field(default=0.15, gt=0, le=0.5)
    """Of its tokens."""
    mean_length: float = Field(default=3.0, ge=1)
    """Of a span, in tokens."""


class AdversarialSection(Section):
    """How a language model and its critic learn from each other."""

    pretrain_steps: int | None = Field(default=None, ge=0)
    """From texts, by likelihood; half of all unless told."""
    critic_steps: int | None = Field(default=None, ge=0)
    """Of the critic alone, then; a tenth of all unless told."""
    critic_per_policy: int = Field(default=2, ge=1)
    """Of the critic, for each by policy gradient, from then on."""
    rollouts: int = Field(default=4, ge=1)
    """Texts that go on from a token, to see what it is worth."""
    policy_rate: float = Field(default=0.1, gt=0)
    """Share of the learning rate in steps by policy gradient."""
    critic_size: int = Field(default=64, ge=1)
    """Of the critic's vectors and filters."""


class PrivacySection(Section):
    """Differentially private training: how much noise, or what it may cost."""

    epsilon: float | None = Field(default=None, gt=0)
    """The most that all of training may cost; the noise follows from it."""
    noise_multiplier: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise, over `max_grad_norm`."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """What the gradient of each example is cut to."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Chance that the promise does not hold; 1e-5, or a tenth of one over the number of examples
    where that is less."""


class HiddenSection(Section):
    """Which hidden states of a student are drawn to a teacher's."""

    weight: float = Field(default=1.0, gt=0)
    loss: Literal["mse", "cosine"] = "mse"
    layers: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = []
    """Pairs of a student's and a teacher's layer, 0 what the embeddings give; where left out, each
    of the student's with the one as deep in the teacher."""


class DistillSection(Section):
    """A library model to learn from beside the labels."""

    teacher: str = Field(min_length=1)
    temperature: float = Field(default=2.0, gt=0)
    alpha: float = Field(default=0.5, ge=0, le=1)
    """The teacher's share of the loss, the labels having the rest."""
    hidden: HiddenSection | None = None


class TokenizerSection(Section):
    """How text becomes tokens; `base` takes the tokenizer of `model.base`, `teacher` that of
    `distill.teacher`, `vectors` the words of `model.vectors`, `data` that which made the token
    ids of the dataset."""

    kind: Literal["character", "word", "byte_bpe", "base", "teacher", "vectors", "data"]
    vocab_size: int = Field(default=4096, ge=257, le=1_000_000)
    min_count: int = Field(default=5, ge=1)
    """How often a word is there at least (kind `word`); rarer ones are unknown."""
    split_cjk: bool = False
    split_punctuation: bool = False
    split_digits: bool = False
    drop_spaces: bool = False
    lowercase: bool = False
    special_tokens: list[str] = []
    end_token: str | None = None
    """The token that ends a text or an answer, where the objective's own does not fit."""


class DataSection(Section):
    """Where examples come from: a file, `dataset:NAME` (`NAME:3`, `NAME@alias`) of the library,
    `starter:NAME` for the text that ships with llmos, or `feedback:MODEL` for what people said of a
    model's answers."""

    path: str = Field(min_length=1)
    format: Literal["text", "jsonl", "tsv", "csv", "conllu", "conll"] | None = None
    columns: list[str] | None = None
    """Names of the columns of a tsv or csv file that has no header line."""
    fields: dict[str, str] = {}
    """Our field name: the file's (`source: english`)."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    validation_path: str | None = Field(default=None, min_length=1)
    """A file of records to validate on; then all of `path` is trained on."""
    rows: int | None = Field(default=None, ge=1)
    validation_rows: int = Field(default=500, ge=1)

    @property
    def named(self) -> list[str]:
        """What it names, in the order that it is read in."""
        return [path for path in (self.path, self.validation_path) if path is not None]

    @property
    def read_paths(self) -> list[str]:
        """Of that, the files and datasets: all that does not ship with llmos."""
        return [path for path in self.named if not path.startswith(STARTER)]


class TaskSection(Section):
    """Another task that the encoder learns, and from what."""

    data: DataSection
    labels: list[str] | None = None
    weight: float = Field(default=1.0, gt=0)
    """Steps of it for each of the recipe's own task."""


class AlsoSection(Section):
    """What one encoder learns beside the recipe's own task, each with a head of its own."""

    classify: TaskSection | None = None
    entities: TaskSection | None = None
    rate: TaskSection | None = None
    answer: TaskSection | None = None
    fill_mask: TaskSection | None = None
    embed: TaskSection | None = None

    @property
    def sections(self) -> dict[str, TaskSection]:
        """Those that there are, by task."""
        named = {task: getattr(self, task) for task in type(self).model_fields}
        return {task: section for task, section in named.items() if section is not None}


class ReplaySection(DataSection):
    """What the base learned before: some of it is in every batch, so that it is not forgotten, and
    how much was is measured."""

    share: float = Field(default=0.3, ge=0, lt=1)
    """Of a batch; 0: it is measured only."""

    def rows_of(self, batch_size: int) -> int:
        """Return how many rows of a batch are of it."""
        return round(self.share * batch_size)


class OnlineSection(Section):
    """A micro-update: what came in since the last one is learned, in so many steps at most."""

    min_rows: int = Field(default=2, ge=2)
    """Fewer new rows are waited for to become more."""
    epochs: int = Field(default=3, ge=1)
    """How often a new row is learned, where that takes less than `steps`."""


class OptimizerSection(Section):
    """The optimizer, and its learning rate: a linear warm-up, then a schedule."""

    kind: OptimizerKind = "adamw"
    learning_rate: float = Field(gt=0)
    schedule: Schedule = "cosine"
    min_learning_rate: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    decay_steps: int | None = Field(default=None, ge=1)
    """Of the descent that ends `wsd`; a tenth of the steps unless told."""
    patience: int = Field(default=3, ge=1)
    """Validations without a better loss after which `plateau` lowers the rate."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """What `plateau` multiplies it by."""
    weight_decay: float = Field(default=0.1, ge=0)
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Of SGD and RMSprop (none unless told) and Muon (0.95)."""
    betas: list[Share] = Field(default=[0.9, 0.95], min_length=2, max_length=2)
    epsilon: float = Field(default=1e-8, gt=0)
    grad_clip: float = Field(default=1.0, ge=0)
    """Largest gradient norm; 0 means no limit."""


class RobustSection(Section):
    """What training does to the input so that small changes of it fool the model less."""

    noise: float = Field(default=0.0, ge=0)
    """Of embeddings, uniform, over the root of length times size (5 is usual)."""
    adversarial: float = Field(default=0.0, ge=0)
    """Length of a step to where the loss is highest, in the embeddings of each row (1); twice the
    work."""
    r_drop: float = Field(default=0.0, ge=0)
    """Weight of how far two passes with dropout are apart (1 to 5); twice the work."""
    drop: float = Field(default=0.0, ge=0, lt=1)
    """Share of the tokens of a text that are left out, others each time (0.1)."""
    shuffle: int = Field(default=0, ge=0)
    """Places by which a token of a text moves at most (3)."""


class VectorsSection(Section):
    """How word vectors are learned."""

    method: Literal["skip_gram", "cbow", "glove"] = "skip_gram"
    window: int = Field(default=5, ge=1, le=100)
    """Words to each side that count as near."""
    epochs: int = Field(default=5, ge=1)
    learning_rate: float = Field(default=0.025, gt=0)
    """At the beginning: it falls along a line (skip_gram, cbow), or is AdaGrad's (glove)."""
    negative: int = Field(default=5, ge=1, le=100)
    """Words drawn for each, which should not be near (skip_gram, cbow)."""
    subsample: float = Field(default=1e-3, ge=0, lt=1)
    """Share of the text above which a word is thinned out; 0 for none (skip_gram, cbow)."""
    x_max: float = Field(default=100.0, gt=0)
    """How often two words meet for it to count in full (glove)."""


class TranslationSection(Section):
    """What is put before a source text, and the directions the model knows."""

    prefix: str = "<2{target_lang}>"
    pairs: list[list[str]] = []


class GenerationSection(Section):
    """Sampling defaults that travel with the model."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    num_beams: int | None = Field(default=None, ge=1)
    no_repeat_ngram_size: int | None = Field(default=None, ge=0)
    length_penalty: float | None = None
    slide: bool | None = None
    """When the context is full, go on from its last half."""


class EvaluateSection(Section):
    """Splits the finished model is tested on."""

    splits: list[str] = []
    rows: int = Field(default=600, ge=1)


class CardSection(Section):
    """What the model's card says."""

    description: str = ""
    limits: str = ""
    license: str = ""
    languages: list[str] = []
    recommended: list[str] = []
