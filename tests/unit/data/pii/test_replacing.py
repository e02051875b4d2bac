"""What stands in the place of personal data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmos.data.pii import checksums
from llmos.data.pii.finder import find
from llmos.data.pii.replacing import KEY_FILE, Action, Replacer, canonical, read_key
from llmos.errors import PipelineError

KEY = b"0123456789abcdef0123456789abcdef"


def replaced(text: str, action: Action, key: bytes | None = KEY) -> str:
    return Replacer(key).replaced(text, [(span, action) for span in find(text)])


def test_each_action_does_what_it_says() -> None:
    text = "Mail rose@example.org, or 13800138000."
    assert replaced(text, "replace") == "Mail [EMAIL], or [PHONE]."
    assert replaced(text, "mask") == "Mail ****************, or ***********."
    assert replaced(text, "keep") == text
    assert re.fullmatch(
        r"Mail \[EMAIL_[0-9a-f]{12}\], or \[PHONE_[0-9a-f]{12}\]\.", replaced(text, "pseudonym")
    )


@pytest.mark.parametrize("action", ["pseudonym", "surrogate"])
def test_the_same_value_gets_the_same_however_it_is_written(action: Action) -> None:
    one, two = (replaced(text, action) for text in ("13800138000", "１３８００１３８０００"))
    assert one == two or action == "surrogate"
    assert replaced("13800138000", action) == replaced("13800138000", action)
    assert replaced("13800138000", action) != replaced("13800138001", action)
    assert replaced("13800138000", action) != replaced("13800138000", action, KEY[::-1])


def test_a_value_is_the_same_without_spaces_case_and_width() -> None:
    assert canonical("PHONE", "138-0013 8000") == canonical("PHONE", "１３８００１３８０００")
    assert canonical("NAME", "ROSE  Okafor") == canonical("NAME", "Rose Okafor")
    assert canonical("SECRET", "aB") != canonical("SECRET", "ab")


def test_surrogates_are_of_the_form_and_valid_and_of_nobody() -> None:
    card = replaced("card 4111 1111 1111 1111", "surrogate").removeprefix("card ")
    assert re.fullmatch(r"9999 \d{4} \d{4} \d{4}", card) and checksums.is_luhn(
        card.replace(" ", "")
    )
    iban = replaced("GB82 WEST 1234 5698 7654 32", "surrogate")
    assert checksums.is_iban(iban.replace(" ", "")) and iban.startswith("GB")
    number = replaced("11010519491231002X", "surrogate")
    assert checksums.is_id_card(number) and number.startswith("990000")
    assert replaced("SSN 219-09-9999", "surrogate").startswith("SSN 666-")
    assert re.fullmatch(r"[a-z]+\d{6}@example\.com", replaced("rose@example.org", "surrogate"))
    phone = replaced("(415) 555-0137", "surrogate")
    assert re.fullmatch(r"\(415\) 555-01\d\d", phone)
    assert re.fullmatch(r"\+44 00\d\d \d{6}", replaced("+44 7700 900123", "surrogate"))
    assert re.fullmatch(r"[\u4e00-\u9fff]{3}", replaced("我叫陈建军", "surrogate")[2:])
    assert re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]+", replaced("Rose Adler", "surrogate"))
    secret = replaced("password: Maple!9", "surrogate").removeprefix("password: ")
    assert re.fullmatch(r"[A-Z][a-z]{4}!\d", secret) and secret != "Maple!9"


def test_the_key_is_a_file_that_only_its_owner_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_FILE, raising=False)
    with pytest.raises(PipelineError, match="need a secret key"):
        read_key()
    path = tmp_path / "key"
    monkeypatch.setenv(KEY_FILE, str(path))
    with pytest.raises(PipelineError, match="cannot be read"):
        read_key()
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(PipelineError, match="needs 32"):
        read_key()
    path.write_bytes(KEY + b"\n")
    assert read_key() == KEY
    path.chmod(0o644)
    with pytest.raises(PipelineError, match="chmod 600"):
        read_key()
