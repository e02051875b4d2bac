import pytest

from llmos import errors
from llmos.errors import LlmosError, ModelNotFoundError, by_code, told_error


def every_class(cls: type[LlmosError] = LlmosError) -> list[type[LlmosError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in every_class(sub))]


@pytest.mark.parametrize("cls", every_class(), ids=lambda cls: cls.__name__)
def test_every_error_has_a_message_a_status_an_exit_code_and_a_code_of_its_own(
    cls: type[LlmosError],
) -> None:
    error = cls()
    assert error.message == str(error) != ""
    assert 400 <= error.status < 600
    assert 0 < error.exit_code < 126
    assert by_code(error.code) is cls


def test_a_message_of_its_own_replaces_the_default() -> None:
    error = ModelNotFoundError("no 'x'", param="model")
    assert (error.message, error.param, error.status) == ("no 'x'", "model", 404)


def test_an_unknown_code_is_a_plain_error() -> None:
    assert by_code("from-the-future") is errors.LlmosError


def test_what_another_process_tells_keeps_its_code() -> None:
    known = told_error("model_not_found", "There is no such model.")
    assert type(known) is ModelNotFoundError and known.code == ModelNotFoundError.code
    strange = told_error("of_a_worker_alone", "It diverged.")
    assert type(strange) is LlmosError
    assert (strange.code, strange.message) == ("of_a_worker_alone", "It diverged.")
    assert LlmosError.code == by_code("nonsense").code  # the class is as it was
