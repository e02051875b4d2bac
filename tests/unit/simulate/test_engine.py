"""One model of a device: counts that agree with the batcher's plans."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import llmos.engines
from llmos.kernel import observer
from llmos.settings import Settings
from llmos.simulate import engine, keepers
from llmos.simulate.clock import seconds
from llmos.simulate.engine import BLOCK_TOKENS, SimulatedEngine
from llmos.simulate.sequences import Sequence
from llmos.simulate.steptimes import MEASURED
from llmos.simulate.traces import Request
from llmos.types import Priority

NO_LIMIT_S = float("inf")


def request(number: int, prompt_tokens: int, output_tokens: int, priority: int = 1) -> Request:
    return Request(
        number, 0, "model", f"tenant-{number}", Priority(priority), prompt_tokens, output_tokens
    )


def sequence(*args: int) -> Sequence:
    one = request(*args)
    return Sequence(one, int(one.priority), one.tenant)


def run(model: SimulatedEngine, most: int = 10_000) -> list[Sequence]:
    """Step until there is no work, runs at once; return the sequences as they ended."""
    ended: list[Sequence] = []
    now_ps = 0
    for _ in range(most):
        if not model.has_work:
            return ended
        step = model.begin({}, NO_LIMIT_S)
        count = step.most_steps
        first_ps = now_ps + step.first_ps
        now_ps += count * step.first_ps + step.growth_ps * (count * (count - 1) // 2)
        ended += model.finish(step, count, first_ps, now_ps)
    raise AssertionError("the engine does not come to an end")


def test_a_request_alone_takes_its_prompt_and_its_tokens() -> None:
    model = SimulatedEngine(MEASURED, num_blocks=1000)
    model.add(sequence(0, 300, 50))
    (one,) = run(model)
    prompt_ps = MEASURED.prefill(0, 300) + MEASURED.step_ps
    assert one.first_ps == prompt_ps
    assert one.last_ps == prompt_ps + 49 * MEASURED.step_ps + MEASURED.decode(301, 49)
    assert model.num_plans == 2, "the tokens after the first are one run"


def test_a_long_prompt_is_computed_in_chunks_that_others_can_bear() -> None:
    model = SimulatedEngine(MEASURED, num_blocks=1000)
    model.add(sequence(0, 4000, 2))
    longest_s, num_steps = 0.0, 0
    while model.has_work:
        step = model.begin({}, NO_LIMIT_S)
        longest_s, num_steps = max(longest_s, seconds(step.first_ps)), num_steps + 1
        model.finish(step, 1, 1, 1)
    assert longest_s < 0.26
    assert num_steps > 10


def test_every_block_comes_back() -> None:
    model = SimulatedEngine(MEASURED, num_blocks=60)
    for number in range(12):
        model.add(sequence(number, 90 + 17 * number, 40, number % 4))
    ended = run(model)
    assert len(ended) == 12
    assert model.free_blocks == 60
    assert model.pending_tokens == [0, 0, 0, 0]


def test_a_better_class_takes_the_place_of_a_worse_one_where_memory_is_short() -> None:
    model = SimulatedEngine(MEASURED, num_blocks=20)
    model.add(sequence(0, 200, 80, Priority.BATCH))
    step = model.begin({}, NO_LIMIT_S)
    model.finish(step, 1, 1, 1)
    model.add(sequence(1, 200, 5, Priority.INTERACTIVE))
    ended = run(model)
    assert [one.request.number for one in ended] == [1, 0]
    assert model.num_preempted == 1
    assert ended[1].num_tokens == 280, "it was computed again and lost nothing"


def test_more_rows_wait_than_are_asked_about_at_first_and_none_is_forgotten() -> None:
    model = SimulatedEngine(MEASURED, num_blocks=10_000)
    for number in range(30):
        model.add(sequence(number, 4, 3))
    step = model.begin({}, NO_LIMIT_S)
    assert len(step.chunks) == 30, "short prompts are admitted together, however many were offered"


def test_a_run_ends_before_blocks_run_short() -> None:
    model = SimulatedEngine(MEASURED, num_blocks=8)
    for number in range(2):
        model.add(sequence(number, BLOCK_TOKENS, 60))
    ended = run(model)
    assert len(ended) == 2
    assert model.num_preempted, "both could not be held to their ends"


def test_what_is_known_of_the_engine_is_so() -> None:
    source = Path(llmos.engines.__path__[0]) / "native" / "engine.py"
    tree = ast.parse(source.read_text("utf-8"))
    named: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            named |= {name.id: node.value.value for name in node.targets if _is_name(name)}  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            found = {arg.arg: default for arg, default in pairs}
            named |= {k: v.value for k, v in found.items() if isinstance(v, ast.Constant)}
    assert named["block_size"] == engine.BLOCK_TOKENS
    assert named["max_rows"] == engine.MAX_ROWS
    assert named["ITL_TARGET_MS"] / 1000 == engine.ITL_TARGET_S
    assert named["AGEING_TOKENS"] == engine.AGEING_TOKENS
    assert named["TENANT_LEAD_MS"] / 1000 == seconds(int(engine.TENANT_LEAD_PS))


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


def test_what_is_known_of_the_kernel_is_so() -> None:
    assert observer.AGEING_S == keepers.AGEING_S
    assert Settings().idle_s == keepers.IDLE_S
