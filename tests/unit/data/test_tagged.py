from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmos.data.record import Annotated, Entity, to_record
from llmos.data.sources import FileSource
from llmos.errors import DataError

TREE = """\
# newdoc id = one
# text = Isn't it late, Ana?
1-2\tIsn't\t_\t_\t_\t_\t_\t_\t_\t_
1\tIs\tbe\tAUX\tVBZ\t_\t4\tcop\t_\t_
2\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
3\tit\tit\tPRON\tPRP\t_\t4\tnsubj\t_\t_
4\tlate\tlate\tADJ\tJJ\t_\t0\troot\t_\tSpaceAfter=No
4.1\tso\tso\tADV\tRB\t_\t_\t_\t_\t_
5\t,\t,\tPUNCT\t,\t_\t6\tpunct\t_\t_
6\tAna\tAna\tPROPN\tNNP\t_\t4\tvocative\t_\tSpaceAfter=No
7\t?\t?\tPUNCT\t.\t_\t4\tpunct\t_\t_

# text = 她来了。
1\t她\t她\tPRON\tPRP\t_\t2\tnsubj\t_\t_
2\t来\t来\tVERB\tVV\t_\t0\troot\t_\t_
3\t了\t了\tAUX\tAS\t_\t2\taux\t_\t_
4\t。\t。\tPUNCT\t.\t_\t2\tpunct\t_\t_
"""
NAMES = "Ana\tB-person\nLopez\tI-person\nleft\tO\nOslo\tB-place\n\n\n-DOCSTART- O\n\n她 O\n在 O\n"


def rows_of(text: str, name: str, folder: Path) -> list[dict[str, Any]]:
    path = folder / name
    path.write_text(text, "utf-8")
    return [row for _, row in FileSource(path, name).rows()]


def test_treebanks_and_tables_of_tags_are_read_by_their_suffix(tmp_path: Path) -> None:
    one, two = rows_of(TREE, "x.conllu", tmp_path)
    assert one["tokens"] == ["Is", "n't", "it", "late", ",", "Ana", "?"]
    assert one["heads"] == [4, 4, 4, 0, 6, 4, 4] and two["xpos"] == ["PRP", "VV", "AS", "."]
    ana, _ = rows_of(NAMES, "x.conll", tmp_path)
    assert ana["tags"] == ["B-person", "I-person", "O", "B-place"]


@pytest.mark.parametrize("name", ["x.conll", "x.conllu"])
def test_a_broken_line_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{name}:1: line 2 has 3 columns, not"):
        rows_of("Ana\tB\na\tb\tc\n" if name == "x.conll" else "# a\na\tb\tc\n", name, tmp_path)


def test_words_become_spans_of_the_text(tmp_path: Path) -> None:
    row, _ = rows_of(TREE, "x.conllu", tmp_path)
    record = to_record("entities", {**row, "tags": row["upos"]}, "x")
    assert isinstance(record, Annotated)
    assert record.entities[:2] == (Entity(0, 2, "AUX"), Entity(2, 5, "PART"))
    words = to_record("entities", row, "x")
    assert isinstance(words, Annotated)
    assert [words.text[one.start : one.end] for one in words.entities] == row["tokens"]
    assert {one.label for one in words.entities} == {"WORD"}


def test_tags_of_names_become_their_spans() -> None:
    tokens, tags = ["Ana", "Lopez", "met", "Bo"], ["B-P", "I-P", "O", "I-P"]
    record = to_record("entities", {"tokens": tokens, "tags": tags, "text": "elsewhere"}, "x")
    assert record == Annotated("Ana Lopez met Bo", (Entity(0, 9, "P"), Entity(14, 16, "P")))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": []}, "nor of 'tokens'"),
        ({"tokens": ["a", 3]}, "nor of 'tokens'"),
        ({"tokens": ["a", "b"], "tags": ["X"]}, "for each of 2 'tokens'"),
    ],
)
def test_words_without_their_tags_are_refused(row: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        to_record("entities", row, "x")
