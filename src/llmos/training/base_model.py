"""The library models that a recipe names, to go on from or to learn from: files, tokenizer and chat
template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Tokenizer

from llmos.data.tokenizers import Specials
from llmos.errors import RecipeError
from llmos.library import describe
from llmos.library.files import TOKENIZER_FILE, read_json
from llmos.training.recipe import Recipe
from llmos.training.vectors.given import GivenVectors
from llmos.types import FileRef

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A version's reference, the directory of its files, and what makes text into tokens."""

    ref: str
    digest: str
    directory: Path
    tokenizer: Tokenizer
    specials: Specials

    def with_template(self, recipe: Recipe) -> Recipe:
        """The recipe, with this model's chat template where a chat recipe has none of its own.

        Raises:
            RecipeError: neither has one.
        """
        if recipe.task != "chat" or recipe.chat_template is not None:
            return recipe
        config = read_json(self.directory / "tokenizer_config.json", missing_ok=True)
        template = describe.chat_template(self.directory, config)
        if template is None:
            raise RecipeError(f"{self.ref} has no chat template: give one as chat_template")
        return recipe.model_copy(update={"chat_template": template})


@dataclass(frozen=True, slots=True)
class Given:
    """The library models of a job, each None where it has none.

    Attributes:
        base: what it goes on from.
        teacher: what its student learns from.
        tokens: the one of these whose tokenizer and chat template are taken, or what made the
            token ids of its dataset.
        vectors: what its embeddings begin with.
    """

    base: BaseModel | None
    teacher: BaseModel | None
    tokens: BaseModel | None
    vectors: GivenVectors | None

    @classmethod
    def of(cls, context: JobContext) -> Given:
        """Lay out their files.

        Raises:
            RecipeError: one has no tokenizer.json, or a dataset no token ids.
            DataError: a file of word vectors cannot be read.
            CorruptBlobError: a stored file was damaged.
        """
        base, teacher = _open(context, "base"), _open(context, "teacher")
        kind = context.params["recipe"].get("tokenizer", {}).get("kind")
        tokens = _of_data(context) if kind == "data" else teacher if kind == "teacher" else base
        return cls(base, teacher, tokens, GivenVectors.of(context))

    @property
    def refs(self) -> tuple[str, ...]:
        """What they are, for the lineage."""
        refs = [model.ref for model in (self.base, self.teacher) if model is not None]
        if self.vectors is not None and self.vectors.is_model:
            refs.append(self.vectors.name)
        return tuple(refs)


def tokenized_paths(context: JobContext, recipe: Recipe) -> list[str]:
    """Return the datasets of a recipe whose token ids are those of its tokenizer, so that they are
    read in place of texts."""
    if recipe.reads != "generate":
        return []
    wanted = _tokenizer_digest(_tokens_of(context.params, recipe.tokenizer.kind))
    datasets = context.params.get("datasets") or {}
    digests = {path: _tokenizer_digest(told.get("tokenizer")) for path, told in datasets.items()}
    for path, digest in digests.items():
        if digest is not None and digest != wanted:
            context.log(f"{path} has the ids of another tokenizer: its texts are read")
    return [path for path, digest in digests.items() if digest is not None and digest == wanted]


def _tokens_of(params: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """Return the files of the tokenizer that a recipe takes, None where it makes its own."""
    if kind == "data":
        path = params["recipe"]["data"]["path"]
        files: Mapping[str, Any] = params["datasets"][path]["tokenizer"]
        return files
    return (params.get(kind) or {}).get("files") if kind in ("base", "teacher") else None


def _tokenizer_digest(files: Mapping[str, Any] | None) -> str | None:
    told = (files or {}).get(TOKENIZER_FILE)
    return None if told is None else str(told["digest"])


def _of_data(context: JobContext) -> BaseModel:
    """Return what made the token ids of the recipe's dataset."""
    path = context.params["recipe"]["data"]["path"]
    told = context.params["datasets"][path]
    if not told.get("tokenizer"):
        raise RecipeError(f"{path} has no token ids: run the operator tokenize on it")
    given = {"ref": path, "digest": told["digest"], "files": told["tokenizer"]}
    return _opened(context, "data", given)


def _open(context: JobContext, role: Literal["base", "teacher"]) -> BaseModel | None:
    given = context.params.get(role)
    return None if given is None else _opened(context, role, given)


def _opened(
    context: JobContext, role: Literal["base", "teacher", "data"], given: Mapping[str, Any]
) -> BaseModel:
    directory = context.checkpoint_dir / role
    if not directory.exists():
        files = {name: FileRef(**ref) for name, ref in given["files"].items()}
        context.blobs.materialize(files, directory)
    if not (directory / "tokenizer.json").exists():
        raise RecipeError(f"{given['ref']} has no tokenizer.json to train with")
    config = read_json(directory / "tokenizer_config.json", missing_ok=True)
    named = describe.special_tokens(directory, config)
    eos = named.get("eos", "")
    mask = describe.mask_token(directory, config)
    if role == "base" and "pad" not in named:
        context.log(
            f"{given['ref']} names no token to pad with: what fills rows up is masked by its "
            "place, whatever its token"
        )
    specials = Specials(named.get("pad", eos), eos, named.get("bos"), named.get("unk"), mask=mask)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return BaseModel(given["ref"], given.get("digest", ""), directory, tokenizer, specials)
