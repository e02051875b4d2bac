"""What an operator of a stranger may do, and what becomes of its records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmos.data.pipeline.changes import changed_sample
from llmos.data.pipeline.operator import Batcher, Mapper, Operator, Options, TextOptions
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import Outcome, Step, apply
from llmos.errors import EngineError


class Stranger(Operator[Options]):
    """Does what its function does."""

    name = "stranger"
    group = "filter"

    def __init__(self, function: Any) -> None:
        super().__init__()
        self._function = function

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        return self._function(records)


def run(function: Any, count: int = 600) -> tuple[list[str], dict[str, str], dict[str, str], Any]:
    records = [Record(str(number), {"text": str(number)}) for number in range(count)]
    done = apply([Stranger(function)], records)
    dropped = {row["id"]: row["reason"] for row in done.outcome.dropped}
    rejected = {row["id"]: row["reason"] for row in done.outcome.rejected}
    return [one.id for one in done.records], dropped, rejected, done.tallies[0]


def test_one_that_raises_loses_that_record_alone() -> None:
    def fails_at_sevens(records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            if record.text().endswith("7"):
                raise ValueError(f"no {record.id}")
            yield record

    kept, dropped, rejected, tally = run(fails_at_sevens)
    assert len(kept) == 540 and not dropped and len(rejected) == 60
    assert rejected["17"] == "ValueError: no 17"
    assert (tally.read, tally.kept, tally.rejected) == (600, 540, 60)


def test_one_that_does_not_yield_a_record_drops_it() -> None:
    kept, dropped, rejected, _ = run(lambda records: (one for one in records if int(one.id) % 2))
    assert len(kept) == 300 and len(dropped) == 300 and not rejected
    assert set(dropped.values()) == {"left out"}


def test_one_that_stops_early_drops_the_rest() -> None:
    def first_two(records: Iterator[Record]) -> Iterator[Record]:
        yield next(records)
        yield next(records)

    kept, dropped, _, _ = run(first_two, 10)
    assert kept == ["0", "1"] and sorted(dropped) == [str(n) for n in range(2, 10)]


def test_one_that_makes_two_of_each_keeps_both() -> None:
    def twice(records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            yield record
            yield Record(f"{record.id}b", {"text": record.text()})

    kept, dropped, rejected, tally = run(twice, 3)
    assert kept == ["0", "0b", "1", "1b", "2", "2b"] and not dropped and not rejected
    assert (tally.read, tally.kept) == (3, 6)


def test_one_that_fails_before_it_takes_a_record_is_an_error() -> None:
    def broken(records: Iterator[Record]) -> Iterator[Record]:
        raise RuntimeError("not set up")
        yield

    with pytest.raises(RuntimeError, match="not set up"):
        run(broken)


def test_changes_are_counted() -> None:
    texts = ["a", "B", "C"]
    records = [Record(text, {"text": text}) for text in texts]
    done = apply([make_operator("lower_case", {}, 0)], records)
    assert done.tallies[0].changed == 2


class Ending(Mapper[TextOptions]):
    """Adds an end."""

    name = "ending"

    def change(self, text: str) -> str:
        return text if text.endswith("!") else text + "!"


def test_a_step_shows_what_it_changed_around_where_it_did() -> None:
    texts = ["same!", "a", "长" * 100 + "b" * 300, "c", "d"]
    records = [Record(str(number), {"text": text}) for number, text in enumerate(texts)]
    (tally,) = apply([Ending()], records).tallies
    assert tally.changed == 4 and [one["id"] for one in tally.samples] == ["1", "2", "3"]
    assert tally.samples[0] == {"id": "1", "before": "a", "after": "a!"}
    assert tally.samples[1]["before"] == "…" + "b" * 40
    assert tally.samples[1]["after"] == "…" + "b" * 40 + "!"
    long = changed_sample("x", {"text": "y" * 500, "n": 1}, {"text": ["z"], "n": 1})
    assert long == {"id": "x", "before": "y" * 160 + "…", "after": '["z"]'}
    more = changed_sample("x", {"a": 1}, {"b": "二"})
    assert more == {"id": "x", "before": '{"a":1}', "after": '{"b":"二"}'}


def test_a_step_that_hides_shows_no_text() -> None:
    outcome = Outcome()
    step = Step(1, "ending", Ending(), hides=True)
    step.apply([Record("1", {"text": "Alice"}), Record("2", {"name": "Bob"})], outcome)
    assert step.tally.changed == 1 and step.tally.samples == []
    step.drop(Record("3", {"text": "Carol"}), "pattern found: Carol", outcome)
    step.reject(Record("4", {"text": "Dave"}), ValueError("no Dave"), outcome)
    told = [*outcome.dropped, *outcome.rejected]
    assert [row["excerpt"] for row in told] == ["", "", ""]
    reasons = [row["reason"] for row in told]
    assert "pattern found" in reasons and "ValueError" in reasons
    assert not any(name in reason for name in ("Carol", "Dave") for reason in reasons)


class Asking(Batcher[Options]):
    """Is refused as often as it is told, then answered."""

    name = "asking"
    group = "shape"
    refusals = 0

    def batch(self, records: list[Record]) -> list[Record]:
        if self.refusals:
            self.refusals -= 1
            raise EngineError("the engine is gone")
        return records


def test_a_model_that_is_away_for_a_while_costs_no_record() -> None:
    records = [Record(str(number), {"text": "x"}) for number in range(8)]
    asking = Asking()
    asking.refusals = 2
    done = apply([asking], records)
    assert len(done.records) == 8 and not done.outcome.rejected
    asking.refusals = 100
    outcome = Outcome()
    with pytest.raises(EngineError):  # the attempt ends, and the next begins with this shard
        Step(1, "asking", asking).apply(records, outcome)
    assert not outcome.rejected

    def alone(records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            raise EngineError(record.id)
        yield from ()

    with pytest.raises(EngineError):
        run(alone)
