from __future__ import annotations

from typing import Any

import pytest

from llmos.data.record import to_record
from llmos.data.trees import Parsed
from llmos.errors import DataError

ROW: dict[str, Any] = {
    "tokens": ["Li", "sings", "."],
    "upos": ["PROPN", "VERB", "PUNCT"],
    "heads": [2, 0, 2],
    "deprel": ["nsubj", "root", "punct"],
}


def test_a_row_of_conll_u_is_a_sentence_and_its_tree() -> None:
    record = to_record("parse", {**ROW, "text": "Li sings.", "lemmas": []}, "x")
    assert isinstance(record, Parsed)
    assert (record.heads, record.tags[0], record.text) == ((2, 0, 2), "PROPN", "Li sings .")


def test_parts_of_speech_may_be_unknown() -> None:
    row = {name: value for name, value in ROW.items() if name != "upos"}
    record = to_record("parse", row, "x")
    assert isinstance(record, Parsed) and record.tags == ()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"tokens": None}, "no list of 'tokens'"),
        ({"tokens": ["Li", " ", "."]}, "empty word"),
        ({"deprel": ["nsubj"]}, "one of 'deprel' for each of 3"),
        ({"deprel": None}, "no list of 'deprel'"),
        ({"upos": ["NNP", "VBZ", "."]}, "no universal part of speech"),
        ({"heads": None}, "one of 'heads' for each of 3"),
        ({"heads": [2, 0]}, "one of 'heads' for each of 3"),
        ({"heads": [2, 0, 4]}, "from 1 to 3"),
        ({"heads": [2, 0, True]}, "from 1 to 3"),
        ({"heads": [2, 0, 0]}, "must be 0, not 2"),
        ({"heads": [2, 1, 0]}, "in a circle at word 1"),
        ({"heads": [1, 0, 2]}, "in a circle at word 1"),
    ],
)
def test_what_is_no_tree_is_refused_with_its_place(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        to_record("parse", ROW | changed, "x.conllu, sentence 7")
    assert "x.conllu, sentence 7" in str(caught.value)
