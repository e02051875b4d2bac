from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from tests.unit.training.tiny import make_recipe

from llmos.errors import InvalidRequestError
from llmos.plugins.manager import load_plugins
from llmos.training import jobs

DIGEST = "sha256:" + "0" * 64


def test_train_is_a_job_kind_that_the_plugin_manager_finds() -> None:
    found = [kind for kinds in load_plugins([jobs]).hook.llmos_job_kinds() for kind in kinds]
    assert [kind.name for kind in found] == ["train"]


def test_what_the_server_imports_is_torch_free() -> None:
    code = "import sys, llmos.training.jobs; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_params_come_back_complete() -> None:
    params = jobs.validate({"recipe": make_recipe("generate")})
    assert params["name"] == "tiny" and params["data"] == {} and params["base"] is None
    assert jobs.validate(params) == params
    named = jobs.validate({"recipe": make_recipe("generate"), "name": "team/x"})
    assert named["name"] == "team/x"


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"name": "a b"}, "use letters"),
        ({"name": "../x"}, "use letters"),
        ({"name": "x:3"}, "version"),
        ({"name": {}}, "name must be text"),
        ({"recipe": None}, "YAML mapping"),
        ({"data": {"x": "md5:0"}}, "x must be sha256"),
        ({"data": ["x"]}, "must map"),
        ({"more": 1}, "unknown parameter more"),
    ],
)
def test_a_bad_request_says_what_is_wrong(params: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        jobs.validate({"recipe": make_recipe("generate"), **params})


def test_a_data_file_must_have_been_uploaded() -> None:
    recipe = make_recipe("generate", data={"path": "mine.txt"})
    with pytest.raises(InvalidRequestError, match=r"no uploaded file for mine.txt"):
        jobs.validate({"recipe": recipe})
    assert jobs.validate({"recipe": recipe, "data": {"mine.txt": DIGEST}})["data"]


def test_a_base_model_comes_with_its_files() -> None:
    recipe = make_recipe("generate", model={"base": "m"}, tokenizer={"kind": "base"})
    with pytest.raises(InvalidRequestError, match="base must hold the files of m"):
        jobs.validate({"recipe": recipe})
    for malformed in (5, {}, {"ref": "m:1", "files": {"x": 5}}, {"ref": "m:1", "files": []}):
        with pytest.raises(InvalidRequestError, match="base must hold the files of m"):
            jobs.validate({"recipe": recipe, "base": malformed})
    files = {"model.safetensors": {"digest": DIGEST, "size": 10**9}}
    base = {"ref": "m:1", "digest": DIGEST, "files": files}
    params = jobs.validate({"recipe": recipe, "base": base})
    assert params["base"] == base
    assert jobs.estimate_bytes(params) > 4 * 10**9
    assert not jobs.makes_adapter(params)
    adapted = jobs.validate({"recipe": recipe | {"adapter": {"rank": 4}}, "base": base})
    assert jobs.makes_adapter(adapted)
    assert jobs.estimate_bytes(adapted) < 0.6 * jobs.estimate_bytes(params)


def test_the_estimate_grows_with_the_model_and_the_batch() -> None:
    def estimate(**changes: Any) -> int:
        return jobs.estimate_bytes({"recipe": make_recipe("chat", **changes)})

    small = estimate()
    wide = {"architecture": "llama", "config": {"hidden_size": 1024, "num_hidden_layers": 24}}
    assert estimate(model=wide) > small + 4 * 10**9
    assert estimate(batch_size=512) > small
    t5 = {"architecture": "t5", "config": {"d_model": 1024, "num_layers": 12}}
    decoding = {"architecture": "t5", "config": {**t5["config"], "num_decoder_layers": 12}}
    assert estimate(model=decoding) > estimate(model=t5) + 4 * 12 * 12 * 1024**2
    cheap, averaged = {"learning_rate": 0.1, "kind": "sgd"}, estimate(model=wide, ema=0.9)
    parameters = 12 * 24 * 1024**2 + 300 * 1024
    assert estimate(model=wide) - estimate(model=wide, optimizer=cheap) == 2 * 8 * parameters
    assert averaged - estimate(model=wide) == 2 * 4 * parameters
    without_copies = estimate(model=wide, checkpoint_every=4)
    assert estimate(model=wide) - without_copies == (4 + 8) * parameters
    negative = {
        "architecture": "llama",
        "config": {"hidden_size": 64, "num_hidden_layers": -(10**9)},
    }
    assert estimate(model=negative) > 0


def test_jobs_that_train_the_same_network_share_what_was_measured() -> None:
    def subject(**changes: Any) -> str:
        return jobs.subject({"recipe": make_recipe("generate", **changes)})

    assert subject(steps=7, batch_size=3) == subject(name="other")
    deeper = make_recipe("generate")
    deeper["model"]["config"] |= {"n_layer": 9, "num_hidden_layers": 9}
    assert jobs.subject({"recipe": deeper}) != subject()
    based = make_recipe("generate", model={"base": "m"}, tokenizer={"kind": "base"})
    assert jobs.subject({"recipe": based, "base": {"ref": "m:3"}}) == "causal_lm m:3"
