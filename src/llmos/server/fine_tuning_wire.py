"""The bodies of OpenAI's fine-tuning API, as far as llmos serves it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictFloat, StrictInt

from llmos.apps.tuning_recipe import Hyperparameters
from llmos.errors import InvalidRequestError
from llmos.library.refs import is_name
from llmos.sdk.wire import Body
from llmos.server.batches_wire import MAX_NOTES, Note, NoteName

MAX_EPOCHS, MAX_BATCH, MAX_MULTIPLIER = 1000, 1024, 1000.0
MAX_BETA = 100.0
MAX_SUFFIX_CHARS = 64


def _number(value: Any) -> Any:
    """OpenAI's older clients send "auto" where newer ones send nothing."""
    return None if value == "auto" else value


_OPEN = BeforeValidator(_number)
Epochs = Annotated[StrictInt | None, Field(ge=1, le=MAX_EPOCHS), _OPEN]
BatchSize = Annotated[StrictInt | None, Field(ge=1, le=MAX_BATCH), _OPEN]
Multiplier = Annotated[StrictFloat | None, Field(gt=0, le=MAX_MULTIPLIER), _OPEN]
Beta = Annotated[StrictFloat | None, Field(gt=0, le=MAX_BETA), _OPEN]


class SupervisedHyperparameters(Body):
    """Numbers, or "auto"."""

    n_epochs: Epochs = None
    batch_size: BatchSize = None
    learning_rate_multiplier: Multiplier = None


class DpoHyperparameters(SupervisedHyperparameters):
    """Those, and how near to its base the model stays."""

    beta: Beta = None


class SupervisedBody(Body):
    hyperparameters: SupervisedHyperparameters | None = None


class DpoBody(Body):
    hyperparameters: DpoHyperparameters | None = None


class MethodBody(Body):
    type: Literal["supervised", "dpo"]
    supervised: SupervisedBody | None = None
    dpo: DpoBody | None = None


class FineTuneBody(Body):
    """``POST /v1/fine_tuning/jobs``"""

    max_items = {"metadata": MAX_NOTES}  # noqa: RUF012 - as in Body
    model: str = Field(min_length=1, max_length=300)
    training_file: str = Field(min_length=1, max_length=100)
    validation_file: str | None = Field(None, min_length=1, max_length=100)
    method: MethodBody | None = None
    hyperparameters: SupervisedHyperparameters | None = None
    seed: StrictInt | None = Field(None, ge=0, lt=2**63)
    suffix: str | None = Field(None, min_length=1, max_length=MAX_SUFFIX_CHARS)
    metadata: dict[NoteName, Note] | None = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def method_type(self) -> Literal["supervised", "dpo"]:
        return "supervised" if self.method is None else self.method.type

    def wanted(self) -> Hyperparameters:
        """Return the hyperparameters, wherever they stand.

        Raises:
            InvalidRequestError: they stand in two places, or in that of another method.
        """
        kind = self.method_type
        method = self.method or MethodBody(type="supervised")
        other = "dpo" if kind == "supervised" else "supervised"
        if getattr(method, other) is not None:
            raise InvalidRequestError(
                f"method.type is {kind!r}, but method.{other} is given.", param=f"method.{other}"
            )
        section = method.supervised if kind == "supervised" else method.dpo
        given = None if section is None else section.hyperparameters
        if self.hyperparameters is not None:
            if given is not None or kind == "dpo":
                raise InvalidRequestError(
                    "Give hyperparameters in one place: those of the method.",
                    param="hyperparameters",
                )
            given = self.hyperparameters
        named = {} if given is None else given.model_dump(exclude_none=True)
        return Hyperparameters(**named)

    def checked_suffix(self) -> str | None:
        """Return the suffix. Raises InvalidRequestError where no name can have it."""
        if self.suffix is not None and not is_name(self.suffix):
            raise InvalidRequestError(
                f"suffix {self.suffix!r} cannot be in a name: use letters, digits, '.', '_' and "
                "'-', a letter or digit first.",
                param="suffix",
            )
        return self.suffix
