"""A recipe: one YAML file that says what to train on what, and how. Torch-free.

`load` reads a file, `override` applies `--set a.b=value`, `parse` checks it. What is wrong is said
in one sentence that names the key.
"""

from __future__ import annotations

import copy
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import yaml
from pydantic import Field, ValidationError, model_validator

from llmos.errors import RecipeError
from llmos.sdk.recipe_data import named_files
from llmos.training import counted
from llmos.training.complaints import sentence
from llmos.training.recipe_checks import check_adapter, check_dpo, check_together
from llmos.training.recipe_sections import (
    DATASET,
    MOMENTUM_KINDS,
    PROVIDED,
    STARTER,
    AdapterSection,
    AdversarialSection,
    AlsoSection,
    CardSection,
    ContrastiveSection,
    DataSection,
    DistillSection,
    DpoSection,
    EvaluateSection,
    GenerationSection,
    LatentSection,
    ModelSection,
    OnlineSection,
    OptimizerSection,
    PrivacySection,
    ReplaySection,
    RobustSection,
    Section,
    SpansSection,
    TokenizerSection,
    TranslationSection,
    VectorsSection,
)
from llmos.training.recipe_sharing import check_sharing

Head = Literal[
    "causal_lm",
    "seq2seq",
    "sequence_classification",
    "token_classification",
    "masked_lm",
    "question_answering",
    "embedding",
    "dependency_parsing",
    "multitask",
]
Objective = Literal[
    Head,
    "dpo",
    "autoencoder",
    "elbo",
    "adversarial",
    "span_lm",
    "contrastive",
    "regression",
    "word_vectors",
]
Task = Literal[
    "generate",
    "chat",
    "translate",
    "classify",
    "entities",
    "fill_mask",
    "answer",
    "embed",
    "rate",
    "parse",
    "word_vectors",
]
OBJECTIVES: dict[str, Objective] = {
    "generate": "causal_lm",
    "chat": "causal_lm",
    "translate": "seq2seq",
    "classify": "sequence_classification",
    "entities": "token_classification",
    "fill_mask": "masked_lm",
    "answer": "question_answering",
    "embed": "contrastive",
    "rate": "regression",
    "parse": "dependency_parsing",
    "word_vectors": "word_vectors",
}
OTHER_OBJECTIVES = {
    "chat": ("dpo",),
    "generate": ("autoencoder", "elbo", "adversarial"),
    "fill_mask": ("span_lm",),
}
"""That a task may have in place of its own."""
LATENT = frozenset({"autoencoder", "elbo"})
BY_TEXT = LATENT | {"adversarial"}
"""Objectives whose examples are texts, each by itself."""
HEADS: dict[str, Head] = {
    "dpo": "causal_lm",
    "autoencoder": "causal_lm",
    "elbo": "causal_lm",
    "adversarial": "causal_lm",
    "contrastive": "embedding",
    "word_vectors": "embedding",
    "regression": "sequence_classification",
    "span_lm": "seq2seq",
}
"""What a network ends in, where the objective is not named after it."""
MIN_BLOCK_SIZE = 2
UNLABELLED = frozenset({"contrastive", "regression", "question_answering"})
FILE_SPLITS = frozenset({"train", "validation"})


class Recipe(Section):
    """A whole recipe. Steps count optimizer steps; lengths count tokens; batches count rows."""

    name: str = Field(min_length=1)
    task: Task
    objective: Objective
    seed: int = Field(default=0, ge=0, lt=2**63)
    model: ModelSection
    adapter: AdapterSection | None = None
    tokenizer: TokenizerSection
    data: DataSection
    labels: list[str] | None = None
    also: AlsoSection | None = None
    chat_template: str | None = None
    translation: TranslationSection | None = None
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Rows of a batch that are computed at a time; all unless told."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of what is computed in training; weights and what is published are float32."""
    activation_checkpointing: bool = False
    """Keep what goes into each layer only, and compute the rest again for gradients."""
    block_size: int = Field(default=256, ge=MIN_BLOCK_SIZE)
    max_tokens: int = Field(default=256, ge=4)
    processes: int = Field(default=1, ge=1, le=64)
    """That train together on one machine."""
    parallel: Literal["ddp", "fsdp", "tensor"] = "ddp"
    packing: bool = False
    """Several examples in a row, none of which sees another."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    robust: RobustSection | None = None
    dpo: DpoSection | None = None
    latent: LatentSection | None = None
    contrastive: ContrastiveSection | None = None
    spans: SpansSection | None = None
    distill: DistillSection | None = None
    adversarial: AdversarialSection | None = None
    privacy: PrivacySection | None = None
    replay: ReplaySection | None = None
    online: OnlineSection | None = None
    optimizer: OptimizerSection
    vectors: VectorsSection | None = None
    eval_every: int = Field(default=250, ge=1)
    eval_batches: int = Field(default=20, ge=1)
    checkpoint_every: int = Field(default=250, ge=1)
    early_stopping: int | None = Field(default=None, ge=1)
    """Validations without a better loss after which training ends."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Of a moving average of the weights (0.999), which is what is validated and published."""
    publish: Literal["last", "best"] = "last"
    keep_at: list[Annotated[int, Field(ge=1)]] = Field(default=[], max_length=64)
    """Steps before the last one whose model becomes a version too."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    generation: GenerationSection = GenerationSection()
    evaluate: EvaluateSection = EvaluateSection()
    card: CardSection = CardSection()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.model.architecture is None) == (self.model.base is None):
            raise ValueError("model needs either `architecture` or `base`, not both")
        own = OBJECTIVES[self.task]
        if self.objective not in (own, *OTHER_OBJECTIVES.get(self.task, ())):
            raise ValueError(f"task {self.task} needs objective {own}")
        self._check_by_text()
        check_dpo(self)
        embeds = self.task == "embed" or (self.also is not None and self.also.embed is not None)
        if self.contrastive is not None and not embeds:
            raise ValueError("contrastive is for task embed")
        if self.spans is not None and self.objective != "span_lm":
            raise ValueError("spans is for objective span_lm, of task fill_mask")
        if self.label_smoothing and self.objective in UNLABELLED:
            raise ValueError(f"label_smoothing is for labels, which task {self.task} has none of")
        if (self.task == "word_vectors") != (self.vectors is not None):
            raise ValueError("task word_vectors needs a section vectors, and no other task does")
        has_own = self.model.base is None and self.tokenizer.kind != "teacher"
        if self.task == "chat" and self.chat_template is None and has_own:
            raise ValueError("task chat needs a chat_template")
        check_together(self)
        if self.tokenizer.kind == "base" and self.model.base is None:
            raise ValueError("tokenizer.kind base needs model.base")
        if self.optimizer.min_learning_rate > self.optimizer.learning_rate:
            raise ValueError("optimizer.min_learning_rate is above optimizer.learning_rate")
        if self.optimizer.decay_steps is not None and self.optimizer.schedule != "wsd":
            raise ValueError("optimizer.decay_steps is for schedule wsd")
        if self.optimizer.momentum is not None and self.optimizer.kind not in MOMENTUM_KINDS:
            raise ValueError(
                f"optimizer.momentum is for {', '.join(sorted(MOMENTUM_KINDS))}; "
                f"{self.optimizer.kind} has optimizer.betas"
            )
        if self.data.validation_path is not None and self.starter is not None:
            raise ValueError("data.validation_path is for a file as data.path")
        check_adapter(self)
        check_sharing(self)
        if self.packing and (self.objective != "causal_lm" or self.robust is not None):
            raise ValueError("packing is for objective causal_lm, without a robust section")
        missing = sorted(set(self.evaluate.splits) - FILE_SPLITS)
        if missing and self.starter is None:
            raise ValueError(
                f"evaluate.splits names {missing[0]}, but a file has only train and validation: "
                "--set evaluate.splits=[]"
            )
        return self

    def _check_by_text(self) -> None:
        if self.latent is not None and self.objective not in LATENT:
            raise ValueError("latent is for objectives autoencoder and elbo")
        if self.adversarial is not None and self.objective != "adversarial":
            raise ValueError("adversarial is for objective adversarial")
        if self.objective not in BY_TEXT:
            return
        if self.robust is not None:
            raise ValueError(f"objective {self.objective} takes no robust section")
        if self.adapter is not None:
            raise ValueError(f"objective {self.objective} trains no adapter")
        given = (self.latent or LatentSection()).model_fields_set - {"word_dropout"}
        if self.objective == "autoencoder" and given:
            raise ValueError(f"latent.{min(given)} is for objective elbo: leave it out")

    @property
    def head(self) -> Head:
        """What the network ends in."""
        own = cast(Head, HEADS.get(self.objective, self.objective))
        return own if self.also is None else "multitask"

    @property
    def reads(self) -> str:
        """What an example is: what the task is, or `preferences`, or `texts`, each by itself."""
        if self.objective in BY_TEXT:
            return "texts"
        return "preferences" if self.objective == "dpo" else self.task

    @property
    def starter(self) -> str | None:
        """NAME of `starter:NAME`, or None when the data is a file."""
        path = self.data.path
        return path.removeprefix(STARTER) if path.startswith(STARTER) else None

    @property
    def num_new_rows(self) -> int:
        """How many rows of what is not replayed the steps see, each once."""
        num_old = 0 if self.replay is None else self.replay.rows_of(self.batch_size)
        return self.steps * self.accumulate * (self.batch_size - num_old)

    @property
    def read_paths(self) -> list[str]:
        """The files and datasets that it reads, what is trained on first, each once."""
        others = [] if self.also is None else self.also.sections.values()
        sections = [self.data, *(one.data for one in others), *filter(None, [self.replay])]
        return list(dict.fromkeys(path for data in sections for path in data.read_paths))

    @property
    def data_paths(self) -> list[str]:
        """The files that it reads."""
        return [path for path in self.read_paths if not path.startswith(DATASET)]

    @property
    def max_length(self) -> int:
        """Longest sequence a training step sees, in tokens."""
        if self.objective == "adversarial":
            return self.max_tokens + 1  # the token that comes before a text
        return self.block_size if self.reads == "generate" else self.max_tokens


def parse(recipe: Any) -> Recipe:
    """Check a recipe dict.

    Raises:
        RecipeError: with the offending key and, for an unknown one, the nearest that exists.
    """
    if not isinstance(recipe, dict):
        raise RecipeError("the recipe must be a YAML mapping of keys to values")
    objective = OBJECTIVES.get(str(recipe.get("task")))
    filled = {"objective": objective, **counted.filled(recipe), **recipe}
    try:
        return Recipe.model_validate_json(json.dumps(filled, default=str), strict=True)
    except ValidationError as error:
        raise RecipeError(sentence(error, Recipe)) from None
    except RecursionError:
        raise RecipeError("the recipe is nested too deeply") from None


def find(path: Path) -> Path:
    """Return ``path``, or where there is no such file the recipe of that name in this package.

    So ``char-gpt`` and ``recipes/char-gpt.yaml`` work from any folder.
    """
    if path.exists() or str(path.parent) not in (".", "recipes"):
        return path
    shipped = Path(str(files("llmos.starter"))) / "recipes" / f"{path.stem}.yaml"
    return shipped if shipped.exists() else path


def load(path: Path) -> dict[str, Any]:
    """Read a recipe file; relative paths in it are taken from the recipe's folder.

    Raises:
        RecipeError: there is no such file, or it is not a YAML mapping.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as a recipe: {error}") from None
    recipe = _read_yaml(text, str(path))
    if not isinstance(recipe, dict):
        raise RecipeError(f"{path} must be a YAML mapping of keys to values")
    for _, section, key in named_files(recipe):
        section[key] = beside(path, section[key])
    return recipe


def override(recipe: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Return the recipe with each `a.b=value` put in; values are read as YAML.

    Raises:
        RecipeError: a setting has no `=`, or goes through a key that is not a section.
    """
    changed = copy.deepcopy(recipe)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set wants key=value (such as steps=100), not {setting!r}")
        *sections, last = key.strip().split(".")
        table = changed
        for name in sections:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise RecipeError(f"--set {key}: {name} is a value, not a section")
        table[last] = _read_yaml(value, f"--set {key}")
    return changed


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, without what was left at its default."""
    plain = recipe.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def beside(file: Path, data_path: str) -> str:
    """Return a data path that stands in a file, taken from that file's folder if it is relative."""
    if data_path.startswith(PROVIDED) or Path(data_path).is_absolute():
        return data_path
    return str(file.parent / data_path)


class YamlLoader(yaml.SafeLoader):
    """YAML 1.2's floats: `1e-3` is a number."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _read_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, YamlLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise RecipeError(f"{where} is not valid YAML{line}: {problem}") from None
