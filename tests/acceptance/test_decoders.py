"""Each decoder that docs/models/decoders.md names is trained by a job of one server, which then
serves it to the unmodified `openai` client just as transformers runs its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from harness import Llmos, until
from tests.decoders import DECODERS
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmos.sdk.client import Client
from llmos.training.recipe import load

NEW_TOKENS = 24
PROMPT = "ROMEO:\nBut "
ENDED = {"succeeded", "failed", "cancelled"}


def model_of(name: str) -> str:
    return "decoder-" + name.replace(", ", "-").replace(" ", "-").replace("_", "-")


@pytest.fixture(scope="module")
def client(llmos: Llmos) -> Iterator[Client]:
    with llmos.client() as made:
        yield made


@pytest.fixture(scope="module")
def jobs(client: Client, recipe: Path, play: Path) -> dict[str, int]:
    """The job that trains each decoder, all of them queued at once."""
    tiny: dict[str, Any] = load(recipe) | {
        "data": {"path": str(play)},
        "steps": 20,
        "batch_size": 4,
        "block_size": 48,
        "eval_every": 20,
        "eval_batches": 1,
        "checkpoint_every": 20,
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 2},
    }
    found = {}
    for name, (architecture, config) in DECODERS.items():
        model = {"architecture": architecture, "config": config}
        found[name] = client.train(tiny | {"model": model}, model_of(name))["id"]
    return found


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_is_trained_by_a_job_and_served(
    name: str, llmos: Llmos, client: Client, jobs: dict[str, int], tmp_path: Path
) -> None:
    def ended() -> dict[str, Any] | None:
        job = client.job(jobs[name])
        return job if job["state"] in ENDED else None

    job = until(ended, f"the training of {name}", 240)
    assert job["state"] == "succeeded", job["error"]
    model, files = model_of(name), client.export_model(model_of(name), tmp_path / "files")
    tokenizer = AutoTokenizer.from_pretrained(files)
    network = AutoModelForCausalLM.from_pretrained(files)
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        written = network.generate(
            ids, max_new_tokens=NEW_TOKENS, do_sample=False, repetition_penalty=1.0
        )
        logprobs = network(written).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
    wanted = written[0, ids.shape[1] :]
    with openai.OpenAI(base_url=f"{llmos.url}/v1", api_key=llmos.key, max_retries=0) as ai:
        answer = ai.completions.create(
            model=model,
            prompt=PROMPT,
            max_tokens=NEW_TOKENS,
            temperature=0,
            logprobs=0,
            extra_body={"repetition_penalty": 1.0},
        )
    (choice,) = answer.choices
    assert choice.text == tokenizer.decode(wanted)
    assert choice.logprobs is not None
    told = torch.tensor(choice.logprobs.token_logprobs)
    torch.testing.assert_close(told, logprobs.gather(1, wanted[:, None])[:, 0], atol=1e-3, rtol=0)
