"""Taggers are trained from words and their tags, and asked like any model of entities."""

from __future__ import annotations

from pathlib import Path

from harness import Llmos

TREE = """\
# text = Ana sees Bo.
1\tAna\tAna\tPROPN\tNNP\t_\t2\tnsubj\t_\t_
2\tsees\tsee\tVERB\tVBZ\t_\t0\troot\t_\t_
3\tBo\tBo\tPROPN\tNNP\t_\t2\tobj\t_\tSpaceAfter=No
4\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_
"""
QUICK = ("steps=60", "batch_size=16", "eval_every=30", "eval_batches=1", "optimizer.warmup_steps=5")
SMALL = (*QUICK, "evaluate.splits=[]", "model.config.hidden_size=32")


def trained(llmos: Llmos, recipe: str, *changes: str) -> str:
    sets = [part for change in (*SMALL, *changes) for part in ("--set", change)]
    llmos.ok("train", recipe, *sets, "--name", f"my-{recipe}")
    return f"my-{recipe}"


def told(llmos: Llmos, model: str, text: str) -> list[tuple[str, str]]:
    found = llmos.json("entities", text, "--model", model)["entities"]
    assert all(text[one["start"] : one["end"]] == one["text"] for one in found)
    return [(one["text"], one["label"]) for one in found]


def test_a_tagger_tells_parts_of_speech(llmos: Llmos) -> None:
    name = trained(llmos, "tagger-pos-en", "data.rows=400")
    found = told(llmos, name, "Alice likes apples and tomatoes.")
    assert ("Alice", "PROPN") in found and ("apples", "NOUN") in found and (".", "PUNCT") in found
    shown = llmos.json("show", name)["manifest"]
    assert (shown["task"], shown["model_type"]) == ("entities", "crf")
    said = llmos.refused("train", "tagger-pos-en", "--set", "tokenizer.vocab_size=300")
    assert "architecture crf reads bytes" in said
    said = llmos.refused("train", "tagger-pos-en", "--set", "label_smoothing=0.1")
    assert "takes no label_smoothing" in said


def test_a_tagger_cuts_chinese_into_words(llmos: Llmos) -> None:
    name = trained(llmos, "tagger-words-zh", "data.rows=400", "model.config.dictionary=jieba")
    text = "爱丽丝喜欢吃苹果。"
    words = [word for word, _ in told(llmos, name, text)]
    assert "".join(words) == text and words[-2:] == ["苹果", "。"]


def test_a_treebank_is_learned_from(llmos: Llmos, tmp_path: Path) -> None:
    path = tmp_path / "small.conllu"
    blocks = [TREE.replace("Ana", name) for name in ("Ana", "Eva", "Ida", "Una", "Ava", "Mia")]
    path.write_text("\n".join(blocks), "utf-8")
    name = trained(llmos, "tagger-pos-en", f"data.path={path}", "data.rows=null", "batch_size=4")
    found = told(llmos, name, "Ida sees Bo.")
    assert found == [("Ida", "PROPN"), ("sees", "VERB"), ("Bo", "PROPN"), (".", "PUNCT")]


def test_a_dataset_is_tagged_by_a_model_and_trains_another(llmos: Llmos, tmp_path: Path) -> None:
    tagger = trained(llmos, "tagger-words-zh", "data.rows=400")
    source = tmp_path / "lines.txt"
    lines = [
        f"{name}喜欢吃{fruit}。"
        for name in ("爱丽丝", "鲍勃", "大卫")
        for fruit in ("苹果", "桃子")
    ]
    source.write_text("\n".join(lines), "utf-8")
    llmos.ok("data", "add", source, "--name", "lines", "--unit", "line")
    pipeline = tmp_path / "tag.yaml"
    pipeline.write_text(
        "name: tagged\ninput: lines\nsteps:\n"
        f"- tag: {{model: {tagger}}}\n- words: {{into: cut, model: {tagger}}}\n- words\n",
        "utf-8",
    )
    llmos.ok("data", "run", pipeline)
    rows = llmos.json("data", "head", "tagged", "-n", "6")
    assert sorted("".join(row["tokens"]) for row in rows) == sorted(lines)
    for row in rows:
        assert row["cut"] == [span["text"] for span in row["entities"]]
    assert f"{tagger}:" in llmos.ok("data", "show", "tagged")
    again = trained(llmos, "tagger-words-zh", "data.path=dataset:tagged", "data.rows=null")
    assert told(llmos, again, lines[0])
