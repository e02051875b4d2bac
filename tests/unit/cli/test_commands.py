"""Every command against a stub of the SDK's client: what it asks for and what it prints."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmos.cli import defaults, jobs, keys, main, models, reading, run, server, tasks, train
from llmos.errors import ModelNotFoundError, PermissionDeniedError, UnsupportedTaskError
from llmos.training.recipe import find

MODEL: dict[str, Any] = {
    "ref": "my-model:2",
    "kind": "model",
    "files": {},
    "name": "my-model",
    "created_at": 0.0,
    "size_bytes": 2_500_000,
    "manifest": {
        "task": "generate",
        "parameters": 800_000,
        "languages": ["en"],
        "chat_template": None,
        "source": {"kind": "trained"},
    },
}
ADAPTER: dict[str, Any] = {
    "ref": "poet:1",
    "kind": "adapter",
    "size_bytes": 40_000,
    "created_at": 0.0,
    "manifest": {
        "task": "generate",
        "parameters": 10_000,
        "base": "my-model:2",
        "source": {"kind": "imported"},
    },
}
RESIDENT: dict[str, Any] = {
    "name": "my-model:2",
    "engine": "native",
    "state": "ready",
    "bytes": 2_500_000,
    "leases": 5,
    "running": {"interactive": 1, "standard": 2, "batch": 0, "background": 0},
    "waiting": {"interactive": 0, "standard": 0, "batch": 4, "background": 0},
    "idle_s": 0.0,
    "kv_use": 0.25,
    "prefix_hit_rate": None,
}
JOB: dict[str, Any] = {
    "id": 7,
    "kind": "train",
    "name": "my-model",
    "state": "succeeded",
    "attempt": 1,
    "max_attempts": 3,
    "created_at": 0.0,
    "started_at": 1.0,
    "finished_at": 91.0,
    "progress": {"step": 20, "total": 20, "message": ""},
    "error": None,
    "result": {"artifacts": ["my-model:2"]},
}
EVENTS: list[dict[str, Any]] = [
    {"id": 1, "type": "state", "at": 0.0, "data": {"state": "running"}},
    {"id": 2, "type": "log", "at": 0.0, "data": {"line": "reading the data"}},
    {"id": 3, "type": "metric", "at": 0.0, "data": {"step": 20, "values": {"loss": 1.5}}},
    {"id": 4, "type": "state", "at": 0.0, "data": {"state": "succeeded"}},
]


class StubClient:
    """Answers as the server would and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.template: str | None = None

    def __enter__(self) -> StubClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def models(self, kind: str = "model") -> list[dict[str, Any]]:
        return [MODEL] if kind == "model" else [ADAPTER]

    def ps(self) -> dict[str, Any]:
        return {"models": [RESIDENT], "jobs": []}

    def model(self, ref: str) -> dict[str, Any]:
        if ref in {"missing", "auto", "plays"}:
            raise ModelNotFoundError(f"There is no model {ref}: did you mean my-model?")
        return MODEL | {"manifest": MODEL["manifest"] | {"chat_template": self.template}}

    def explain_route(self, text: str, model: str) -> dict[str, Any]:
        if model == "missing":
            raise ModelNotFoundError("there is no model 'missing'")
        if model == "plays":
            raise UnsupportedTaskError("'plays' is for 'generate', not for chat.")
        return {"model": "my-model:1"}

    def card(self, ref: str) -> str:
        return f"# {ref}\n\nA small model."

    def generate(self, model: str, prompt: str, **options: Any) -> Iterator[dict[str, Any]]:
        self.asked.append((model, prompt, options))
        yield from ({"text": piece} for piece in (" my", " lord"))

    def chat(self, model: str, messages: Any, **options: Any) -> Iterator[dict[str, Any]]:
        self.asked.append((model, [dict(turn) for turn in messages], options))
        yield from ({"text": piece} for piece in ("Hi", " there"))

    def translate(self, text: str, source: str, target: str, model: str) -> dict[str, Any]:
        self.asked.append((text, source, target, model))
        return {"text": "你好"}

    def classify(
        self, text: str, model: str, labels: list[str] | None = None, **options: Any
    ) -> dict[str, Any]:
        self.asked.append((text, model, labels, options))
        return {"label": "positive", "score": 0.987, "scores": {"positive": 0.987}}

    def entities(self, text: str, model: str) -> dict[str, Any]:
        found = {"text": "Paris", "label": "LOCATION", "start": 0, "end": 5, "score": 0.99}
        return {"entities": [found]}

    def parse(self, text: str | list[str], model: str) -> dict[str, Any]:
        self.asked.append((text, model))
        words = text.split(" ") if isinstance(text, str) else text
        told = {"upos": "NOUN", "deprel": "dep", "score": 0.9}
        found = [{"id": n + 1, "text": word, "head": n, **told} for n, word in enumerate(words)]
        return {"sentences": [{"words": found}], "model": model}

    def embed(self, texts: list[str], **options: Any) -> list[list[float]]:
        self.asked.append((texts, options))
        return [[0.5, -1.0] for _ in texts]

    def rerank(self, query: str, documents: list[str], **options: Any) -> list[dict[str, Any]]:
        self.asked.append((query, documents, options))
        last = len(documents) - 1
        return [{"index": last, "relevance_score": 0.75, "document": {"text": documents[last]}}]

    def train(
        self,
        recipe: dict[str, Any],
        name: str,
        on_progress: Callable[[str, int, int], None],
        idempotency_key: str | None,
    ) -> dict[str, Any]:
        on_progress("text.txt", 5, 5)
        self.asked.append((recipe, name))
        return JOB | {"state": "queued"}

    def jobs(self, limit: int, states: Sequence[str]) -> list[dict[str, Any]]:
        self.asked.append(("jobs", limit))
        return [JOB]

    def task_defaults(self) -> dict[str, str]:
        return {"sentiment": "starter-sentiment", "entities": "starter-entities"}

    def set_task_default(self, task: str, model: str) -> dict[str, Any]:
        self.asked.append((task, model))
        return {"task": task, "model": model}

    def job(self, number: int) -> dict[str, Any]:
        return JOB

    def job_events(self, number: int, follow: bool = True) -> Iterator[dict[str, Any]]:
        yield from EVENTS

    def cancel_job(self, number: int) -> dict[str, Any]:
        self.asked.append(("cancel", number))
        return JOB

    def remove_model(self, ref: str) -> dict[str, Any]:
        self.asked.append(("remove", ref))
        return MODEL

    def create_key(self, name: str, role: str, **limits: Any) -> dict[str, Any]:
        self.asked.append((name, role, limits))
        return {"id": "abc", "key": "llmos_abc_secret"}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> StubClient:
    stub = StubClient()
    for module in (defaults, jobs, keys, models, reading, run, server, tasks, train):
        monkeypatch.setattr(module, "open_client", lambda *_, **__: stub)
    return stub


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(
        "name: small\ntask: generate\nsteps: 10\nbatch_size: 2\ndata: {path: starter:chat}\n"
        "model: {architecture: gpt2}\ntokenizer: {kind: character}\n"
        "optimizer: {learning_rate: 0.001}\n"
    )
    return path


def test_list_shows_what_a_model_is(client: StubClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["list"]) == 0
    heading, row, adapter = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["NAME", "TASK", "PARAMETERS", "SIZE"]
    assert row.split()[:5] == ["my-model:2", "generate", "800K", "2.5", "MB"]
    assert adapter.startswith("poet:1")
    assert adapter.endswith("imported, adapter of my-model:2")


def test_every_listing_prints_json(client: StubClient, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["list"], ["jobs"], ["show", "my-model"], ["jobs", "show", "7"]):
        assert main.invoke([*arguments, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("dtype", "followed"), [("int8", [7, 8]), ("auto", [7])])
def test_a_pull_waits_for_the_quantised_version_that_was_asked_for_alone(
    client: StubClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    dtype: str,
    followed: list[int],
) -> None:
    made = {"artifacts": ["m:1"], "quantize": dtype, "next_job": 8}
    jobs = {
        7: {"id": 7, "state": "succeeded", "result": made},
        8: {"id": 8, "state": "succeeded", "result": {"artifacts": ["m-int8:1"]}},
    }
    asked: list[int] = []

    def job(number: int) -> dict[str, Any]:
        asked.append(number)
        return jobs[number]

    monkeypatch.setattr(client, "pull", lambda repo, **options: jobs[7], raising=False)
    monkeypatch.setattr(client, "job", job)
    assert main.invoke(["pull", "team/m", "--dtype", dtype]) == 0
    printed = capsys.readouterr()
    assert asked == followed
    assert "m:1 is ready" in printed.out
    assert ("m-int8:1 is ready" in printed.out) == (dtype == "int8")
    assert ("job 8 quantises it" in printed.err) == (dtype == "auto")


def test_run_continues_the_prompt_of_a_model_without_chat_template(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["run", "my-model", "ROMEO:", "--seed", "3", "--stop", "\n"]) == 0
    assert capsys.readouterr().out == "ROMEO: my lord\n"
    options = {"stream": True, "seed": 3, "stop": ["\n"], "priority": "interactive"}
    assert client.asked == [("my-model", "ROMEO:", options)]


def test_a_key_without_the_best_priority_still_gets_its_answer(
    client: StubClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def generate(model: str, prompt: str, **options: Any) -> Iterator[dict[str, Any]]:
        if "priority" in options:
            raise PermissionDeniedError("not for this key", param="priority")
        yield {"text": " slow but sure"}

    monkeypatch.setattr(client, "generate", generate)
    assert main.invoke(["run", "my-model", "ROMEO:"]) == 0
    assert capsys.readouterr().out == "ROMEO: slow but sure\n"


def test_run_takes_a_piped_prompt(
    client: StubClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client.template = "{{ messages }}"
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    assert main.invoke(["run", "my-model"]) == 0
    assert capsys.readouterr().out == "Hi there\n"
    assert client.asked[0][1] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_thoughts_are_shown_to_people_alone(
    client: StubClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_terminal: bool,
) -> None:
    def chat(model: str, messages: Any, **options: Any) -> Iterator[dict[str, Any]]:
        client.asked.append((model, messages, options))
        yield from ({"text": "", "reasoning": piece} for piece in ("hm, ", "yes"))
        yield {"text": "Yes."}

    client.template = "{{ messages }}"
    monkeypatch.setattr(client, "chat", chat)
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    assert main.invoke(["run", "my-model", "hello", "--think"]) == 0
    shown = "\x1b[2mhm, yes\x1b[0m\n\nYes.\n" if is_terminal else "Yes.\n"
    assert capsys.readouterr().out == shown
    assert client.asked[0][2]["chat_template_kwargs"] == {"enable_thinking": True}


def test_a_chat_remembers_its_turns_until_it_is_cleared(
    client: StubClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client.template = "{{ messages }}"
    lines = iter(["hello", "and you?", "/clear", "again", "/bye"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert main.invoke(["run", "my-model", "--system", "Be brief."]) == 0
    contents = [[turn["content"] for turn in messages] for _, messages, _ in client.asked]
    assert contents == [
        ["Be brief.", "hello"],
        ["Be brief.", "hello", "Hi there", "and you?"],
        ["Be brief.", "again"],
    ]


@pytest.mark.parametrize(
    ("text", "source", "target"),
    [
        ("Hello, world!", "en", "zh"),
        ("你好，世界！", "zh", "en"),
        ("我用 Python 写代码", "zh", "en"),
    ],
)
def test_translate_detects_english_and_chinese(
    client: StubClient, text: str, source: str, target: str
) -> None:
    assert main.invoke(["translate", text]) == 0
    assert client.asked == [(text, source, target, "machine_translation")]


def test_classify_and_entities_print_what_they_found(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["classify", "good"]) == 0
    assert main.invoke(["entities", "Paris"]) == 0
    label, _, row = capsys.readouterr().out.splitlines()
    assert label == "positive (98.7%)"
    assert row.split() == ["Paris", "LOCATION", "0", "5", "0.990"]
    assert client.asked == [("good", "sentiment", None, {})]
    labels = ["classify", "who won?", "--labels", "sport, 政治，news", "--template", "about {}"]
    assert main.invoke(labels) == 0
    expected = ("who won?", "embeddings", ["sport", "政治", "news"], {"template": "about {}"})
    assert client.asked[1:] == [expected]


def test_parse_prints_trees_as_a_table_or_as_conllu(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["parse", "Li sings", "--model", "m"]) == 0
    _, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [["1", "Li", "NOUN", "0", "dep"], ["2", "sings", "NOUN", "1", "dep"]]
    assert main.invoke(["parse", "Li sings", "--model", "m", "--conllu"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[1:] == ["2\tsings\t_\tNOUN\t_\t_\t1\tdep\t_\t_", "", ""]


def test_parse_has_another_model_find_the_words(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["parse", "甲。乙。", "--model", "m", "--words", "w", "--json"]) == 0
    assert client.asked == [(["Paris"], "m")] * 2
    assert len(json.loads(capsys.readouterr().out)["sentences"]) == 2


def test_embed_prints_a_vector_a_line_of_texts_given_or_piped_in(
    client: StubClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["embed", "one", "two", "--model", "m", "--dimensions", "2"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [[0.5, -1]] * 2
    monkeypatch.setattr("sys.stdin", io.StringIO("three\n\n  \nfour\n\n"))
    assert main.invoke(["embed", "--prompt", "query"]) == 0
    assert client.asked == [
        (["one", "two"], {"model": "m", "dimensions": 2, "prompt_name": None}),
        (["three", "four"], {"model": "embeddings", "dimensions": None, "prompt_name": "query"}),
    ]


@pytest.mark.parametrize(("command", "task"), [("embed", "embeddings"), ("rerank", "rerank")])
def test_without_a_model_the_two_ways_to_name_one_are_told(
    client: StubClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    task: str,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ModelNotFoundError(f"there is no model {task!r}")

    monkeypatch.setattr(client, command, refuse)
    assert main.invoke([command, "query", "text"]) == 4
    told = capsys.readouterr().err
    assert "--model" in told
    assert f"llmos default {task} MODEL" in told
    assert main.invoke([command, "query", "text", "--model", "mine"]) == 4
    assert "llmos default" not in capsys.readouterr().err


def test_rerank_prints_the_best_document_first(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["rerank", "where?", "here", "over there", "--top", "1"]) == 0
    _, row = capsys.readouterr().out.splitlines()
    assert row.split(maxsplit=2) == ["0.7500", "1", "over there"]
    assert client.asked == [("where?", ["here", "over there"], {"model": "rerank", "top_n": 1})]


def test_an_empty_text_is_refused(client: StubClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["classify", "  "]) == 2
    assert capsys.readouterr().err.startswith("error: no text was given")


def test_train_changes_the_recipe_and_reports_the_model(
    client: StubClient, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(recipe), "--set", "steps=20", "--set", "data.rows=5"]
    assert main.invoke([*arguments, "--name", "my-model"]) == 0
    sent, name = client.asked[0]
    assert (sent["steps"], sent["data"]["rows"], name) == (20, 5, "my-model")
    printed = capsys.readouterr()
    assert "my-model:2 is ready" in printed.out
    assert "job 7" in printed.err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("steps=.inf", "steps"),
        ("stepz=5", "did you mean steps"),
        ("steps=2024-01-01", "steps"),
        ("card={2024-01-01: x}", "keys must be"),
        ("name=2024-13-45", "month must be"),
        ("card=&a {x: *a}", "Circular"),
    ],
)
def test_a_wrong_recipe_is_one_line_before_anything_is_sent(
    client: StubClient, recipe: Path, capsys: pytest.CaptureFixture[str], change: str, says: str
) -> None:
    assert main.invoke(["train", str(recipe), "--set", change]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and says in printed
    assert client.asked == []


def test_train_sends_plain_json(client: StubClient, recipe: Path) -> None:
    assert main.invoke(["train", str(recipe), "--set", "card.limits=2024-01-01"]) == 0
    sent, _ = client.asked[0]
    assert json.loads(json.dumps(sent, allow_nan=False)) == sent
    assert sent["card"] == {"limits": "2024-01-01"}


def test_train_detached_only_names_the_job(
    client: StubClient, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["train", str(recipe), "--detach"]) == 0
    assert client.asked[0][1] == "small"
    assert "llmos jobs logs 7 -f" in capsys.readouterr().out


def test_ctrl_c_on_train_detaches_and_says_how_to_come_back(
    client: StubClient,
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> Iterator[dict[str, Any]]:
        yield EVENTS[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "job_events", interrupted)
    monkeypatch.setattr(client, "job", lambda _: JOB | {"state": "running"})
    assert main.invoke(["train", str(recipe)]) == 130
    said = capsys.readouterr().err
    assert "llmos jobs logs 7 -f" in said
    assert "llmos jobs cancel 7" in said


def test_a_failed_job_gives_its_reason_and_a_nonzero_exit(
    client: StubClient,
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = JOB | {"state": "failed", "error": {"code": "x", "message": "the text is too short"}}
    monkeypatch.setattr(client, "job", lambda _: failed)
    assert main.invoke(["train", str(recipe)]) == 1
    assert "error: the text is too short (job 7" in capsys.readouterr().err


def test_jobs_logs_prints_each_event_as_a_line(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["jobs", "logs", "7"]) == 0
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["running", "reading the data", "step 20 loss 1.5", "succeeded"]


def test_jobs_lists_as_many_as_wanted(client: StubClient) -> None:
    assert main.invoke(["jobs"]) == 0
    assert main.invoke(["jobs", "--limit", "5"]) == 0
    assert main.invoke(["jobs", "--limit", "0"]) == 2
    assert client.asked == [("jobs", 100), ("jobs", 5)]


def test_default_lists_and_sets_what_tasks_answer_with(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["default", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == client.task_defaults()
    assert main.invoke(["default"]) == 0
    assert "starter-sentiment" in capsys.readouterr().out
    assert main.invoke(["default", "sentiment", "mine"]) == 0
    assert capsys.readouterr().out == "sentiment now answers with mine\n"
    assert client.asked == [("sentiment", "mine")]
    assert main.invoke(["default", "sentiment"]) == 2


def test_jobs_cancel_and_rm_ask_for_exactly_that(client: StubClient) -> None:
    assert main.invoke(["jobs", "cancel", "7"]) == 0
    assert main.invoke(["rm", "my-model:2"]) == 0
    assert client.asked == [("cancel", 7), ("remove", "my-model:2")]


def test_a_new_key_goes_to_stdout_alone(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["keys", "create", "laptop", "--expires-days", "1"]) == 0
    assert client.asked == [("laptop", "user", {"expires_in_s": 86400.0})]
    assert capsys.readouterr().out == "llmos_abc_secret\n"


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("on", {}),
        (
            "action=mask types=EMAIL,PHONE answers=false",
            {"action": "mask", "types": ["EMAIL", "PHONE"], "answers": False},
        ),
    ],
)
def test_a_key_says_what_it_hides(client: StubClient, said: str, sent: dict[str, Any]) -> None:
    assert main.invoke(["keys", "create", "desk", "--anonymise", said]) == 0
    assert client.asked == [("desk", "user", {"anonymise": sent})]
    assert main.invoke(["keys", "create", "desk", "--anonymise", "yes"]) == 2


def test_export_refuses_a_folder_with_something_in_it(
    client: StubClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    assert main.invoke(["export", "my-model", str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_run_asks_whatever_a_name_leads_to(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["run", "auto", "hello"]) == 0
    assert main.invoke(["run", "plays", "hello"]) == 0
    assert capsys.readouterr().out == "Hi there\nhello my lord\n"
    messages = [{"role": "user", "content": "hello"}]
    assert [asked[:2] for asked in client.asked] == [("auto", messages), ("plays", "hello")]


def test_an_error_is_one_line_with_its_exit_code(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["run", "missing", "hello"]) == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: There is no model missing: did you mean my-model?\n"


def test_a_recipe_that_ships_with_llmos_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("char-gpt", "recipes/char-gpt.yaml"):
        assert find(Path(given)).is_file()
    assert find(Path("elsewhere/char-gpt.yaml")) == Path("elsewhere/char-gpt.yaml")
    Path("char-gpt").write_text("mine")
    assert find(Path("char-gpt")) == Path("char-gpt")


def test_ps_shows_who_runs_and_waits_and_how_full_the_caches_are(
    capsys: pytest.CaptureFixture[str], client: StubClient
) -> None:
    assert main.invoke(["ps"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    names = ["MODEL", "STATE", "MEMORY", "REQUESTS", "RUNNING", "WAITING", "KV", "PREFIX HITS"]
    assert heading.split("  ")[0] == "MODEL"
    assert all(name in heading for name in names)
    shown = "my-model:2 ready 2.5 MB 5 3 4 25% - 0 seconds"
    assert row.split() == shown.split()
