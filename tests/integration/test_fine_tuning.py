"""Fine-tuning by the unmodified `openai` client: a real server trains, and serves what it made."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from tests.echoserver import EchoServer

from llmos.sdk.client import Client

BASE = "starter-chat"
ANSWER = "Arrr, I be the pirate of llmos."
QUESTIONS = [f"Who are you, number {number}?" for number in range(12)]
FINAL = {"succeeded", "failed", "cancelled"}
QUICK = {"n_epochs": 6, "batch_size": 4, "learning_rate_multiplier": 1.0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    started = EchoServer(tmp_path_factory.mktemp("home"))
    yield started
    started.stop()


def client_of(server: EchoServer, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key or server.key, max_retries=0)


@pytest.fixture(scope="module")
def ai(server: EchoServer) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def talk(question: str, answer: str = ANSWER) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def choice(question: str) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": "Arrr!"}],
        "non_preferred_output": [{"role": "assistant", "content": "Hello."}],
    }


def sent(ai: openai.OpenAI, rows: list[Any], name: str = "train.jsonl") -> str:
    return ai.files.create(file=(name, jsonl(rows)), purpose="fine-tune").id


def supervised(**hyperparameters: Any) -> Any:
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters or QUICK}}


def until(look: Callable[[], Any], is_wanted: Callable[[Any], bool], within_s: float = 120) -> Any:
    """Look until something is as wanted; what crosses processes has no event to wait for."""
    deadline = time.monotonic() + within_s
    while not is_wanted(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen


def ended(ai: openai.OpenAI, job_id: str) -> Any:
    job = until(lambda: ai.fine_tuning.jobs.retrieve(job_id), lambda job: job.status in FINAL)
    assert job.finished_at >= job.created_at
    return job


def said(ai: openai.OpenAI, model: str, question: str) -> str:
    turns: Any = [{"role": "user", "content": question}]
    answer = ai.chat.completions.create(model=model, messages=turns, temperature=0, max_tokens=30)
    return answer.choices[0].message.content or ""


@pytest.fixture(scope="module")
def pirate(ai: openai.OpenAI) -> Any:
    """A fine-tuning that has ended well."""
    job = ai.fine_tuning.jobs.create(
        model=BASE,
        training_file=sent(ai, [talk(question) for question in QUESTIONS] * 4),
        validation_file=sent(ai, [talk("Who are you?")], "held-back.jsonl"),
        method=supervised(),
        suffix="pirate",
        seed=7,
        metadata={"ship": "Revenge"},
    )
    assert (job.status, job.fine_tuned_model, job.seed) == ("queued", None, 7)
    return ended(ai, job.id)


def test_what_it_made_answers_at_once(ai: openai.OpenAI, server: EchoServer, pirate: Any) -> None:
    assert pirate.status == "succeeded", pirate
    assert pirate.fine_tuned_model.startswith("starter-chat-pirate-")
    assert said(ai, pirate.fine_tuned_model, QUESTIONS[3]) == ANSWER
    assert said(ai, BASE, QUESTIONS[3]) != ANSWER
    assert pirate.model == "starter-chat:1"
    assert pirate.trained_tokens > 48 * 6 * 10
    assert pirate.hyperparameters.n_epochs == 6
    assert pirate.method.supervised.hyperparameters.batch_size == 4
    assert pirate.metadata == {"ship": "Revenge"}
    with Client(server.url, server.key) as own:
        version = own.model(pirate.fine_tuned_model)
        job = own.job(pirate.job_id)
    assert (version["kind"], version["manifest"]["base"]) == ("adapter", "starter-chat:1")
    assert version["inputs"][-1] == "starter-chat:1" and len(version["inputs"]) == 3
    assert (job["kind"], job["priority"]) == ("train", "background")
    assert job["params"]["recipe"]["steps"] == 6 * 48 // 4


def test_it_tells_what_happened(ai: openai.OpenAI, pirate: Any) -> None:
    events = list(ai.fine_tuning.jobs.list_events(pirate.id, limit=7))
    assert len({event.id for event in events}) == len(events) > 14, "pages are gone through"
    assert events[-1].message == "Fine-tuning job is queued"
    assert events[0].message.endswith(pirate.fine_tuned_model)
    metrics = [event.data for event in reversed(events) if event.type == "metrics"]
    assert metrics[-1]["step"] == 72
    assert metrics[-1]["train_loss"] < 0.5 * metrics[0]["train_loss"]
    assert metrics[-1]["valid_loss"] < metrics[0]["train_loss"]


def test_its_steps_are_a_table(ai: openai.OpenAI, pirate: Any) -> None:
    (file_id,) = pirate.result_files
    file = ai.files.retrieve(file_id)
    assert (file.purpose, file.filename) == ("fine-tune-results", f"{pirate.id}_step_metrics.csv")
    rows = [*csv.DictReader(ai.files.content(file_id).text.splitlines())]
    assert [*rows[0]][:4] == ["step", "train_loss", "valid_loss", "valid_mean_token_accuracy"]
    assert [int(row["step"]) for row in rows] == sorted({int(row["step"]) for row in rows})
    events = ai.fine_tuning.jobs.list_events(pirate.id, limit=100)
    told = {event.data["step"]: event.data for event in events if event.type == "metrics"}
    for row in rows:
        data = told[int(row["step"])]
        assert float(row["train_loss"]) == data["train_loss"]
        assert row["valid_loss"] == ("" if "valid_loss" not in data else str(data["valid_loss"]))
    assert rows[-1]["step"] == "72" and float(rows[-1]["valid_mean_token_accuracy"]) > 0.9


def test_the_last_epochs_are_models_that_answer(ai: openai.OpenAI, pirate: Any) -> None:
    made = list(ai.fine_tuning.jobs.checkpoints.list(pirate.id, limit=2))
    assert [one.step_number for one in made] == [72, 60, 48], "pages are gone through"
    names = [one.fine_tuned_model_checkpoint for one in made]
    assert names[0] == pirate.fine_tuned_model and len(set(names)) == 3
    assert {one.fine_tuning_job_id for one in made} == {pirate.id}
    for one in made:
        metrics = one.metrics
        assert metrics.step == one.step_number
        assert metrics.train_loss and metrics.valid_loss and metrics.full_valid_loss
        assert metrics.full_valid_mean_token_accuracy is not None
        assert metrics.valid_mean_token_accuracy is not None
    assert made[0].metrics.full_valid_loss != made[-1].metrics.full_valid_loss
    for name in names:
        assert said(ai, name, QUESTIONS[3]) == ANSWER
    assert ai.models.retrieve(names[-1]).id == names[-1]


def test_jobs_are_listed_by_metadata_and_in_pages(ai: openai.OpenAI, pirate: Any) -> None:
    jobs = ai.fine_tuning.jobs
    assert [job.id for job in jobs.list(metadata={"ship": "Revenge"})] == [pirate.id]
    assert list(jobs.list(metadata={"ship": "Pearl"})) == []
    assert list(jobs.list(extra_query={"metadata": "null"})) == []
    assert pirate.id in {job.id for job in jobs.list(limit=1)}


def test_preferences_are_learned(ai: openai.OpenAI) -> None:
    job = ai.fine_tuning.jobs.create(
        model=BASE,
        training_file=sent(ai, [choice(question) for question in QUESTIONS]),
        method={
            "type": "dpo",
            "dpo": {"hyperparameters": {"n_epochs": 8, "batch_size": 4, "beta": 0.5}},
        },
    )
    assert job.method is not None and job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta == 0.5
    done: Any = ended(ai, job.id)
    assert done.status == "succeeded", done
    losses = [
        event.data["train_loss"]
        for event in ai.fine_tuning.jobs.list_events(job.id, limit=100)
        if event.type == "metrics"
    ]
    assert losses[-1] == pytest.approx(0.693, abs=0.01), "that of a coin"
    assert losses[0] < 0.6
    assert said(ai, done.fine_tuned_model, "Hello!")


def test_a_running_one_is_held_and_goes_on_and_is_ended(ai: openai.OpenAI) -> None:
    jobs = ai.fine_tuning.jobs
    file = sent(ai, [talk(question) for question in QUESTIONS])
    job = jobs.create(model=BASE, training_file=file, method=supervised(n_epochs=1000))
    until(lambda: jobs.retrieve(job.id), lambda job: job.estimated_finish is not None)
    assert jobs.pause(job.id).status == "paused"
    assert jobs.resume(job.id).status == "running"
    jobs.cancel(job.id)
    done = ended(ai, job.id)
    assert (done.status, done.fine_tuned_model) == ("cancelled", None)
    assert list(jobs.checkpoints.list(job.id)) == []
    with pytest.raises(openai.ConflictError):
        jobs.pause(job.id)
