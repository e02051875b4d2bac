"""CoNLL and CoNLL-U: sentences become rows of lists, and wrong ones are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.data.formats.sample_files import bad, rows_of

from llmos.data.datasets.readers import Source, read
from llmos.data.formats.conll import spaced
from llmos.errors import DataError

UNIVERSAL = """# newdoc id = d1
# sent_id = s1
# text = Don't stop!
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVB\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\tstop\tstop\tVERB\tVB\tMood=Imp\t0\troot\t_\tSpaceAfter=No
3.1\tit\tit\tPRON\t_\t_\t_\t_\t_\t_
4\t!\t!\tPUNCT\t.\t_\t3\tpunct\t_\t_

# sent_id = s2
1\t你\t你\tPRON\t_\t_\t2\tnsubj\t_\tSpaceAfter=No
2\t好\t好\tADJ\t_\t_\t0\troot\t_\tSpaceAfter=No
"""


def test_named_entities_are_tokens_and_tags(tmp_path: Path) -> None:
    content = "Ann\tB-PER\nwent\tO\n\n-DOCSTART-\tO\n\n小明\tB-PER\n来\tO\n了\tO\n"
    assert rows_of(tmp_path / "a.conll", content) == [
        {"id": "a.conll:1", "text": "Ann went", "tokens": ["Ann", "went"], "tags": ["B-PER", "O"]},
        {
            "id": "a.conll:6",
            "text": "小明来了",
            "tokens": ["小明", "来", "了"],
            "tags": ["B-PER", "O", "O"],
        },
    ]


def test_four_columns_between_spaces_are_those_of_2003_and_others_are_named(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path / "a.conll", "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n")
    assert row["pos"] == ["NNP", "VBZ"] and row["tags"] == ["B-ORG", "O"]
    with pytest.raises(DataError, match=r"a.conll:1: it has 3 columns: say what they are"):
        rows_of(tmp_path / "a.conll", "a b c\n")
    (row,) = rows_of(tmp_path / "a.conll", "a b c\n", columns=("tokens", "lemmas", "tags"))
    assert row["lemmas"] == ["b"]


def test_a_ragged_sentence_is_bad_alone(tmp_path: Path) -> None:
    found = rows_of(tmp_path / "a.conll", "a\tO\nb\n\nc\tO\n")
    assert bad(found) == [("a.conll:1", "line 2 has 1 columns, not 2")]
    assert found[1]["tokens"] == ["c"]


def test_universal_columns_have_their_names(tmp_path: Path) -> None:
    first, second = rows_of(tmp_path / "a.conllu", UNIVERSAL)
    assert first == {
        "id": "a.conllu:1",
        "text": "Don't stop!",
        "tokens": ["Do", "n't", "stop", "!"],
        "lemmas": ["do", "not", "stop", "!"],
        "upos": ["AUX", "PART", "VERB", "PUNCT"],
        "xpos": ["VB", "RB", "VB", "."],
        "feats": ["_", "_", "Mood=Imp", "_"],
        "heads": [3, 3, 0, 3],
        "deprel": ["aux", "advmod", "root", "punct"],
        "meta": {"sent_id": "s1", "document": "d1"},
    }
    assert second["text"] == "你好" and second["meta"] == {"sent_id": "s2", "document": "d1"}
    assert "xpos" not in second
    untold = UNIVERSAL.replace("# text = Don't stop!\n", "")
    assert rows_of(tmp_path / "a.conllu", untold)[0]["text"] == "Don't stop!"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("2\tn't", "3\tn't", "line 6 is word 3, where 2 is next"),
        ("_\t3\taux", "_\t9\taux", "line 5: there is no head 9"),
        ("_\t3\taux", "_\t_\taux", "some of its words have a head"),
        ("VB\t_\t3\taux\t_\t_", "VB", "line 5 has 5 columns, not 10"),
        ("2\tn't", "x\tn't", "line 6: 'x' is no number of a word"),
    ],
)
def test_a_wrong_tree_is_bad_alone(old: str, new: str, said: str, tmp_path: Path) -> None:
    found = rows_of(tmp_path / "a.conllu", UNIVERSAL.replace(old, new))
    assert said in bad(found)[0][1] and bad(found)[0][0] == "a.conllu:1"
    assert found[1]["tokens"] == ["你", "好"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.text(st.characters(categories=("L", "N", "P")), min_size=1),
                st.sampled_from(["O", "B-X", "I-X"]),
            ),
            min_size=1,
        ),
        min_size=1,
    )
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[tuple[str, str]]]
) -> None:
    path = tmp_path_factory.mktemp("conll") / "a.conll"
    blocks = ["".join(f"{token}\t{tag}\n" for token, tag in one) for one in sentences]
    path.write_text("\n".join(blocks), "utf-8", newline="")
    found = list(read(Source(path, "a.conll", "conll", encoding="utf-8")))
    read_back = [list(zip(row["tokens"], row["tags"], strict=True)) for row in found]
    assert read_back == sentences


def test_tokens_are_spaced_as_their_script_is() -> None:
    assert spaced(["我", "用", "Python", "写", "。"]) == "我用 Python 写。"
    assert spaced([]) == "" and spaced(["a", "b"]) == "a b"
