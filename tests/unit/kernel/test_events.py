from __future__ import annotations

import asyncio

from llmos.kernel.events import EventBus


async def test_events_reach_everyone_who_follows_the_topic_in_order() -> None:
    bus = EventBus()
    bus.publish("a", 0)
    with bus.subscribe("a") as first, bus.subscribe("a") as second, bus.subscribe("b") as other:
        bus.publish("a", 1)
        bus.publish("a", 2)
        assert [await anext(first), await anext(first)] == [1, 2]
        assert second.take_all() == [1, 2]
        assert other.take_all() == []


async def test_a_reader_that_waits_is_woken() -> None:
    bus = EventBus()
    with bus.subscribe("a") as live:
        waiting = asyncio.ensure_future(anext(live))
        await asyncio.sleep(0)
        assert not waiting.done()
        bus.publish("a", 1)
        assert await waiting == 1


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    bus = EventBus()
    with bus.subscribe("a", capacity=3) as live:
        for number in range(5):
            bus.publish("a", number)
        assert live.dropped == 2
        assert live.take_all() == [2, 3, 4]


async def test_closing_ends_iteration_after_what_was_there_and_leaves_nothing_behind() -> None:
    bus = EventBus()
    live = bus.subscribe("a")
    bus.publish("a", 1)
    live.close()
    bus.publish("a", 2)
    assert [event async for event in live] == [1]
    assert bus._subscriptions == {}
