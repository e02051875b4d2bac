"""Every recipe, trained whole on an idle machine; run by `make soak`.

The recipes of the starter models take minutes, and are trained by `make starter`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from harness import ROOT, Llmos, running

RECIPES = sorted(
    path.stem for path in (ROOT / "recipes").glob("*.yaml") if not path.stem.startswith("starter-")
)
MOST_S = {"char-gpt": 180.0}
"""Seconds on two cores, where it is not a minute: char-gpt is nanoGPT's setting, a yardstick."""
RESULTS = ROOT / "bench" / "results" / "recipes.json"


@pytest.fixture(scope="module")
def llmos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llmos]:
    """A running llmos with two threads for training."""
    with running(tmp_path_factory.mktemp("recipes"), LLMOS_THREADS="2") as started:
        yield started


@pytest.fixture(scope="module")
def seconds() -> Iterator[dict[str, float]]:
    """How long each recipe took, written down at the end, beside those of runs before."""
    found: dict[str, float] = {}
    yield found
    before = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    every = dict(sorted({**before, **found}.items()))
    RESULTS.write_text(json.dumps(every, indent=2) + "\n", "utf-8")


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_trained_in_a_minute(
    llmos: Llmos, seconds: dict[str, float], recipe: str
) -> None:
    name = f"whole-{recipe}"
    llmos.ok("train", recipe, "--name", name, timeout_s=1000)
    seconds[recipe] = round(llmos.json("show", name)["manifest"]["source"]["seconds"], 1)
    assert seconds[recipe] <= MOST_S.get(recipe, 60.0)
