"""Parsers are trained from trees, asked by the command line, and measured."""

from __future__ import annotations

from pathlib import Path

from harness import Llmos

QUICK = ("steps=80", "batch_size=8", "eval_every=80", "eval_batches=1", "optimizer.warmup_steps=5")
SMALL = (*QUICK, "evaluate.splits=[]", "data.rows=400", "model.config.hidden_size=32")
TEXT = "Alice likes apples and tomatoes. The teacher opened the door slowly."


def test_a_parser_is_trained_asked_measured_and_used_by_pipelines(
    llmos: Llmos, tmp_path: Path
) -> None:
    sets = [part for change in SMALL for part in ("--set", change)]
    llmos.ok("train", "parser-en", *sets, "--name", "my-parser")
    shown = llmos.json("show", "my-parser")["manifest"]
    assert (shown["task"], shown["model_type"]) == ("parse", "biaffine")
    assert shown["parity"]["rows"] > 0

    sentences = llmos.json("parse", TEXT, "--model", "my-parser")["sentences"]
    words = [word for sentence in sentences for word in sentence["words"]]
    assert all(TEXT[word["start"] : word["end"]] == word["text"] for word in words)
    assert [[word["text"] for word in one["words"]][-1] for one in sentences] == [".", "."]
    for one in sentences:
        assert [word["head"] for word in one["words"]].count(0) == 1

    told = tmp_path / "told.conllu"
    told.write_text(llmos.ok("parse", TEXT, "--model", "my-parser", "--conllu"), "utf-8")
    metrics = llmos.json("evaluate", "my-parser", told)["result"]["metrics"]
    assert (metrics["uas"], metrics["las"], metrics["upos"]) == (1.0, 1.0, 1.0)

    source = tmp_path / "lines.txt"
    source.write_text(TEXT, "utf-8")
    llmos.ok("data", "add", source, "--name", "lines")
    pipeline = tmp_path / "parse.yaml"
    pipeline.write_text(
        "name: parsed\ninput: lines\nsteps:\n- parse: {model: my-parser}\n", "utf-8"
    )
    llmos.ok("data", "run", pipeline)
    (row,) = llmos.json("data", "head", "parsed", "-n", "1")
    assert [one["heads"] for one in row["trees"]] == [
        [word["head"] for word in one["words"]] for one in sentences
    ]

    said = llmos.refused("parse", "小猫睡觉。", "--model", "my-parser")
    assert "words" in said
