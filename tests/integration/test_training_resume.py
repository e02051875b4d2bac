"""A killed run goes on to the very weights an uninterrupted one reaches, bit for bit on CPU:
every objective, with dropout, shuffling, packing, augmentation and an average on."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.integration.killings import Forker, forker, left_by
from tests.unit.training.tiny import BERT, BPE, LLAMA, make_job, make_recipe

from llmos.kernel.protocol import JobLog
from llmos.training.privacy import SECRET_FILE
from llmos.training.recipe import OBJECTIVES, OTHER_OBJECTIVES, parse

KILLED = -signal.SIGKILL
PAIRS = [
    {"prompt": f"Question {number}?", "chosen": "Yes, please do.", "rejected": "No, not at all."}
    for number in range(24)
]
PREDICTED = {"n_layer": 1, "n_head": 2, "n_embd": 16, "attn_pdrop": 0.1, "resid_pdrop": 0.1}
LABELS = ["negative", "neutral", "positive"]
RATED = [{"text": f"It was number {number}.", "label": LABELS[number % 3]} for number in range(16)]
TURNS = {**LLAMA, "attention_dropout": 0.1}
BOTTLENECK = {"hidden_size": 16, "latent_size": 4, "dropout": 0.1}
SEQGAN = {
    "pretrain_steps": 2,
    "critic_steps": 1,
    "critic_per_policy": 1,
    "rollouts": 2,
    "critic_size": 8,
}


@dataclass(frozen=True)
class Case:
    """A recipe, and what the job is told beside it.

    Attributes:
        pauses: at which of the questions whether to pause it dies: before the first checkpoint, and
            before the second.
        base, teacher: the task of the small model that it goes on from or learns from.
    """

    recipe: dict[str, Any]
    pauses: tuple[int, int] = (2, 8)
    base: str | None = None
    teacher: str | None = None
    files: dict[str, str] = field(default_factory=dict)


def case(task: str, rows: int = 20, **changes: Any) -> dict[str, Any]:
    """A recipe whose epochs end in the midst of training, and whose steps are of two batches."""
    quick = {"steps": 6, "checkpoint_every": 2, "eval_every": 2, "publish": "best", "accumulate": 2}
    recipe = make_recipe(task, **(quick | changes))
    if "rows" in recipe["data"]:
        recipe["data"]["rows"] = rows
    return recipe


def texts(objective: str, architecture: str, config: dict[str, Any], **changes: Any) -> Any:
    given = {
        "objective": objective,
        "model": {"architecture": architecture, "config": config},
        "data": {"path": "starter:sentiment", "rows": 20, "validation_rows": 8},
        "tokenizer": {**BPE, "vocab_size": 500},
        "max_tokens": 40,
    }
    return case("generate", **(given | changes))


def tuned(task: str, **changes: Any) -> dict[str, Any]:
    """A recipe that goes on from a base."""
    given = {"model": {"base": "tiny"}, "tokenizer": {"kind": "base"}}
    recipe = case(task, **(given | changes))
    recipe.pop("chat_template", None)
    return recipe


def vectors(method: str) -> dict[str, Any]:
    return {
        "name": "tiny",
        "task": "word_vectors",
        "model": {"architecture": "word_vectors", "config": {"hidden_size": 8}},
        "tokenizer": {"kind": "word", "min_count": 2, "lowercase": True},
        "data": {"path": "starter:relations", "rows": 300, "validation_rows": 40},
        "vectors": {"method": method, "epochs": 2},
        "checkpoint_every": 2,
    }


ROBUST = {"noise": 5.0, "adversarial": 1.0, "r_drop": 1.0}
PLATEAU = {"learning_rate": 1e-2, "schedule": "plateau", "patience": 1}
RECURRENT = {"hidden_size": 16, "num_hidden_layers": 2, "dropout": 0.1}
CHANGED = {"drop": 0.2, "shuffle": 2}
CASES = {
    "causal": Case(
        case(
            "generate",
            model={"architecture": "gpt2", "config": PREDICTED},
            robust=ROBUST,
            optimizer=PLATEAU,
            ema=0.9,
        )
    ),
    "masked": Case(case("fill_mask")),
    "spans": Case(case("spans", label_smoothing=0.1)),
    "seq2seq": Case(case("translate", robust=CHANGED, label_smoothing=0.1)),
    "classification": Case(case("classify", robust=CHANGED | {"r_drop": 1.0})),
    "tagging": Case(case("entities")),
    "regression": Case(case("rate")),
    "trees": Case(case("parse")),
    "span QA": Case(case("answer")),
    "contrastive": Case(case("embed")),
    "several tasks": Case(case("multitask")),
    "autoencoder": Case(
        texts(
            "autoencoder", "autoencoder", BOTTLENECK | {"cell": "gru"}, latent={"word_dropout": 0.3}
        )
    ),
    "ELBO": Case(texts("elbo", "vae", BOTTLENECK | {"cell": "lstm"}, latent={"word_dropout": 0.3})),
    "adversarial": Case(
        texts(
            "adversarial", "recurrent", RECURRENT, adversarial=SEQGAN, max_tokens=20, eval_every=6
        )
    ),
    "packed SFT": Case(
        case("chat", packing=True, model={"architecture": "llama", "config": TURNS})
    ),
    "LoRA": Case(tuned("chat", adapter={"rank": 2, "dropout": 0.1}), base="chat"),
    "DPO": Case(
        tuned("chat", objective="dpo", data={"path": "pairs.jsonl", "validation": 0.25}),
        (9, 8),
        base="chat",
        files={"pairs.jsonl": "".join(json.dumps(pair) + "\n" for pair in PAIRS)},
    ),
    "distillation": Case(
        case(
            "classify",
            model={"architecture": "bert", "config": BERT | {"hidden_size": 8}},
            tokenizer={"kind": "teacher"},
            distill={"teacher": "tiny", "hidden": {}},
        ),
        teacher="classify",
    ),
    "private": Case(
        tuned(
            "classify",
            labels=LABELS,
            privacy={"noise_multiplier": 1.0},
            accumulate=1,
        ),
        (2, 11),
        base="classify",
    ),
    "replay": Case(
        tuned(
            "classify",
            data={"path": "new.jsonl", "validation": 0.2},
            replay={"path": "starter:sentiment", "rows": 20, "validation_rows": 8, "share": 0.5},
            labels=LABELS,
            robust=CHANGED,
        ),
        base="classify",
        files={"new.jsonl": "".join(json.dumps(row) + "\n" for row in RATED)},
    ),
    "n-gram": Case(
        {
            "name": "tiny",
            "task": "generate",
            "model": {"architecture": "ngram", "config": {"order": 4}},
            "tokenizer": {"kind": "character"},
            "data": {"path": "starter:tales"},
            "block_size": 32,
        },
        (2, 6),
    ),
    "skip-gram": Case(vectors("skip_gram"), (1, 4)),
    "GloVe": Case(vectors("glove"), (1, 4)),
}
MORE = {
    "LSTM": Case(case("generate", model={"architecture": "recurrent", "config": RECURRENT})),
    "GRU seq2seq": Case(
        case(
            "translate",
            model={
                "architecture": "recurrent_seq2seq",
                "config": {"hidden_size": 16, "dropout": 0.1},
            },
        )
    ),
    "CNN": Case(
        case(
            "classify",
            model={"architecture": "convolutional", "config": {"hidden_size": 8, "dropout": 0.1}},
            robust=CHANGED,
        )
    ),
    "CRF": Case(
        case(
            "entities",
            model={"architecture": "crf", "config": {"hidden_size": 8, "num_buckets": 512}},
            tokenizer={"kind": "byte_bpe", "vocab_size": 259},
            max_tokens=200,
        )
    ),
    "MLP ELBO": Case(texts("elbo", "vae", BOTTLENECK | {"cell": "mlp"})),
    "CBOW": Case(vectors("cbow"), (1, 4)),
}


@pytest.fixture(scope="module")
def forked() -> Iterator[Forker]:
    with forker() as one:
        yield one


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def models(home: Path) -> dict[str, Any]:
    """What the server tells of small models, by their task."""
    from llmos.training import handler

    told = {}
    for task in ("chat", "classify"):
        context, _ = make_job(home, make_recipe(task, steps=2))
        context.checkpoint_dir = home / f"first-{task}"
        (version,) = handler.run(context).artifacts
        files = {n: {"digest": ref.digest, "size": ref.size} for n, ref in version.files.items()}
        told[task] = {"ref": "tiny:1", "digest": f"sha256:{task}", "files": files}
    return told


def params_of(one: Case, home: Path, models: dict[str, Any]) -> dict[str, Any]:
    context, _ = make_job(home, one.recipe)
    put = context.blobs.put_bytes
    data = {name: put(text.encode()).digest for name, text in one.files.items()}
    given = {"base": one.base and models[one.base]}
    given |= {"teacher": models[one.teacher]} if one.teacher else {}
    return {"recipe": one.recipe, "name": "tiny", "data": data, **given}


def begun(directory: Path) -> Path:
    """A job's directory, with the secret that a private training would draw: the same in all."""
    directory.mkdir()
    (directory / SECRET_FILE).write_bytes(b"s" * 32)
    return directory


@pytest.mark.parametrize("name", CASES)
def test_kill_9_and_resume_equals_never_stopping(
    name: str, forked: Forker, home: Path, models: dict[str, Any], tmp_path: Path
) -> None:
    """Killed before the first checkpoint, in the midst of a step and of writing a checkpoint."""
    one = CASES[name]
    params = params_of(one, home, models)
    whole, killed = (begun(tmp_path / run) for run in ("whole", "killed"))
    assert forked.run(params, home / "home", whole) == 0
    for pause in one.pauses:
        assert forked.run(params, home / "home", killed, pause=pause) == KILLED
    if (whole / "checkpoints").exists():  # what is counted keeps none
        assert forked.run(params, home / "home", killed, writing=4) == KILLED
    assert forked.run(params, home / "home", killed) == 0
    assert left_by(killed) == left_by(whole)


def test_no_objective_is_left_out() -> None:
    objectives = {parse(one.recipe).objective for one in CASES.values()}
    others = {name for names in OTHER_OBJECTIVES.values() for name in names}
    assert objectives == set(OBJECTIVES.values()) | others


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES | MORE)
def test_it_may_be_killed_anywhere(
    name: str, forked: Forker, home: Path, models: dict[str, Any], tmp_path: Path
) -> None:
    """At every micro-batch there is, on two threads."""
    one = (CASES | MORE)[name]
    params = params_of(one, home, models)
    whole = begun(tmp_path / "whole")
    assert forked.run(params, home / "home", whole, threads=2) == 0
    expected = left_by(whole)
    for pause in itertools.count(1):
        killed = begun(tmp_path / f"killed-{pause}")
        status = forked.run(params, home / "home", killed, pause=pause, threads=2)
        if status == 0:
            break
        assert status == KILLED
        assert forked.run(params, home / "home", killed, threads=2) == 0
        assert left_by(killed) == expected, f"killed at pause {pause}"
        shutil.rmtree(killed)
    assert pause > 3


def test_a_resumed_job_says_where_it_goes_on(tmp_path: Path) -> None:
    from llmos.training import handler

    context, _ = make_job(tmp_path, make_recipe("generate"))
    handler.run(context)
    context, sent = make_job(tmp_path, make_recipe("generate", steps=6))
    handler.run(context)
    lines = [message.line for message in sent if isinstance(message, JobLog)]
    assert "going on from the checkpoint of step 4" in lines
