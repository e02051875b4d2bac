"""Every command a person types, as a process against a real server."""

from __future__ import annotations

import signal
from pathlib import Path

from harness import Llmos, until

from llmos import __version__


def test_list_shows_the_starter_models(llmos: Llmos, starter_models: tuple[str, ...]) -> None:
    listed = {model["name"]: model for model in llmos.json("list")}
    assert set(starter_models) <= set(listed)
    assert all(f"{name}:1" in llmos.ok("list") for name in starter_models)


def test_run_answers_as_a_chat(llmos: Llmos, starter_models: tuple[str, ...]) -> None:
    answer = llmos.ok("run", "starter-chat", "Hello, who are you?", "--temperature", "0")
    assert len(answer.strip()) > 5
    piped = llmos.ok("run", "starter-chat", "--temperature", "0", stdin="Hello, who are you?")
    assert piped == answer


def test_translate_goes_both_ways(llmos: Llmos, starter_models: tuple[str, ...]) -> None:
    assert llmos.ok("translate", "Hello, world!", "--to", "zh") == "你好，世界！\n"
    assert llmos.ok("translate", "你好，世界！") == "Hello, world!\n"


def test_classify_and_entities(llmos: Llmos, starter_models: tuple[str, ...]) -> None:
    assert llmos.ok("classify", "这家餐厅很好吃").startswith("positive")
    found = llmos.json("entities", "Alice flew from Paris to Beijing on Monday.")["entities"]
    assert [(entity["text"], entity["label"]) for entity in found] == [
        ("Alice", "PERSON"),
        ("Paris", "LOCATION"),
        ("Beijing", "LOCATION"),
        ("Monday", "DATE"),
    ]


def test_a_trained_model_is_listed_shown_and_run(llmos: Llmos, my_model: str) -> None:
    card = llmos.ok("show", my_model)
    assert "my-model" in card
    curve = Path(card.splitlines()[-1].removeprefix("loss curve: "))
    assert curve.read_bytes().startswith(b"\x89PNG")
    shown = llmos.json("show", my_model)
    assert shown["ref"] == "my-model:1"
    assert {"model.safetensors", "tokenizer.json", "config.json", "loss.png"} <= set(shown["files"])
    first = llmos.ok("run", my_model, "ROMEO:", "--max-tokens", "20", "--seed", "7")
    assert first.startswith("ROMEO:")
    assert len(first) >= len("ROMEO:") + 20
    again = llmos.ok("run", f"{my_model}:1", "ROMEO:", "--max-tokens", "20", "--seed", "7")
    assert again == first


def test_jobs_are_listed_shown_and_logged(llmos: Llmos, my_model: str) -> None:
    job = next(job for job in llmos.json("jobs") if job["name"] == my_model)
    assert job["state"] == "succeeded"
    assert my_model in llmos.ok("jobs")
    shown = llmos.ok("jobs", "show", str(job["id"]))
    assert "succeeded" in shown
    log = llmos.ok("jobs", "logs", str(job["id"]), "-f")
    assert "loss" in log
    assert log.splitlines()[-1].endswith("succeeded")


def test_ctrl_c_detaches_from_a_training_that_goes_on_until_cancelled(
    llmos: Llmos, play: Path, recipe: Path
) -> None:
    sets = [part for change in (f"data.path={play}", "steps=100000") for part in ("--set", change)]
    watching = llmos.start("train", recipe, *sets, "--name", "endless")
    number = until(lambda: _job_named(llmos, "endless"), "the training to be queued")
    until(llmos.reaches_step(number, 1), "the training to run")
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert f"llmos jobs logs {number} -f" in said
    assert f"llmos jobs cancel {number}" in said
    assert llmos.job(number)["state"] == "running"
    llmos.ok("jobs", "cancel", str(number))
    until(lambda: llmos.job(number)["state"] == "cancelled", "the training to end", 15)
    assert "endless" not in llmos.ok("list")


def _job_named(llmos: Llmos, name: str) -> int | None:
    with llmos.client() as client:
        return next((int(job["id"]) for job in client.jobs() if job["name"] == name), None)


def test_export_import_alias_rm_and_gc(llmos: Llmos, my_model: str, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    llmos.ok("export", my_model, folder)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert "copy:1 is ready" in llmos.ok("import", folder, "--name", "copy")
    assert llmos.weights("copy") == llmos.weights(my_model)
    llmos.ok("alias", "copy:1", "production")
    options = ("ROMEO:", "--max-tokens", "8", "--temperature", "0")
    assert llmos.ok("run", "copy@production", *options) == llmos.ok("run", my_model, *options)
    llmos.ok("rm", "copy")
    assert "copy" not in {model["name"] for model in llmos.json("list")}
    assert "copy" in llmos.refused("run", "copy", "ROMEO:")
    assert "freed" in llmos.ok("gc")
    assert llmos.ok("run", my_model, *options)


def test_an_exported_model_loads_in_transformers(
    llmos: Llmos, my_model: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llmos.ok("export", my_model, tmp_path / "exported")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    prompt = tokenizer("ROMEO:", return_tensors="pt")
    tokens = model.generate(
        **prompt, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    ours = llmos.ok("run", my_model, "ROMEO:", "--max-tokens", "16", "--temperature", "0")
    assert ours == tokenizer.decode(tokens[0], skip_special_tokens=True) + "\n"


def test_ps_shows_what_is_in_memory(llmos: Llmos, my_model: str) -> None:
    llmos.ok("run", my_model, "ROMEO:", "--max-tokens", "1")
    assert any(my_model in str(model) for model in llmos.json("ps")["models"])
    assert my_model in llmos.ok("ps")


def test_list_catalog_names_models_worth_pulling(llmos: Llmos) -> None:
    rows = llmos.json("list", "--catalog")
    assert len(rows) > 10
    assert all(row["repo"] and row["license"] and row["size_bytes"] > 0 for row in rows)
    assert rows[0]["repo"] in llmos.ok("list", "--catalog")


def test_keys_are_made_used_listed_and_revoked(llmos: Llmos, my_model: str) -> None:
    key = llmos.json("keys", "create", "laptop", "--model", my_model)
    as_laptop = {"LLMOS_URL": llmos.url, "LLMOS_API_KEY": key["key"]}
    assert llmos.ok("run", my_model, "ROMEO:", "--max-tokens", "2", **as_laptop)
    refused = llmos.refused("run", "starter-chat", "hi", **as_laptop)
    assert "starter-chat" in refused
    assert "laptop" in llmos.ok("keys", "list")
    assert key["key"] not in llmos.ok("keys", "list", "--json")
    llmos.ok("keys", "revoke", key["id"])
    assert "key" in llmos.refused("list", **as_laptop)


def test_doctor_version_and_logs(llmos: Llmos) -> None:
    checks = {finding["check"]: finding["status"] for finding in llmos.json("doctor")}
    assert checks["server"] == checks["home"] == checks["admin key"] == "ok"
    assert "sqlite" in llmos.ok("doctor")
    version = llmos.json("version")
    assert version["llmos"] == version["server"] == __version__
    assert "starting llmos" in llmos.ok("logs", "-n", "100000")
    assert len(llmos.ok("logs", "-n", "1").splitlines()) == 1


def test_another_server_is_used_by_flag_and_by_environment(llmos: Llmos, tmp_path: Path) -> None:
    elsewhere = Llmos(tmp_path)
    assert elsewhere.refused("list", "--server", "http://127.0.0.1:9")
    with_key = {"LLMOS_API_KEY": llmos.key}
    listed = elsewhere.json("list", "--server", llmos.url, **with_key)
    assert listed == elsewhere.json("list", LLMOS_URL=llmos.url, **with_key)
    assert "key" in elsewhere.refused("list", "--server", llmos.url)
    assert not elsewhere.home.exists()


def test_a_command_starts_a_server_where_none_runs(tmp_path: Path) -> None:
    fresh = Llmos(tmp_path)
    try:
        done = fresh.run("list")
        assert done.returncode == 0, done.stderr
        assert "starting it in the background" in done.stderr
        assert "already running" in fresh.ok("up")
    finally:
        assert "stopped" in fresh.ok("down")
    assert "not running" in fresh.ok("down")
    assert fresh.ok("logs")


def test_nothing_is_written_outside_the_home(llmos: Llmos, my_model: str) -> None:
    assert [path for path in llmos.user_home.rglob("*") if path.is_file()] == []
    assert [path for path in llmos.temp.rglob("*") if path.is_file()] == []
