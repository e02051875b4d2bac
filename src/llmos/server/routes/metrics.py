"""What the system serves, in Prometheus' text format: per model and class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.routes.memory import MemoryCollector
from llmos.types import Priority

if TYPE_CHECKING:
    from llmos.kernel.fleet import Fleet
    from llmos.kernel.telemetry import Histogram, Tally, Telemetry
    from llmos.system import System
    from llmos.tasks.anonymise import Anonymiser

_LABELS = ("model", "priority")
_EVENTS = {
    "prefix_query_tokens": "Prompt tokens looked up in the prefix cache.",
    "prefix_hit_tokens": "Prompt tokens found in the prefix cache.",
    "draft_tokens": "Tokens that speculation proposed.",
    "accepted_tokens": "Proposed tokens that were kept.",
}


def router(system: System) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["system"])

    @routes.get("/metrics", response_class=Response)
    async def metrics(actor: Annotated[Actor, allow("system.read")]) -> Response:
        """Counters, gauges and histograms for Prometheus, of the key's models alone."""
        fleet = system.kernel.fleet
        collector = ServingCollector(fleet, lambda name: policy.has_model(actor, name))
        text = generate_latest(collector) + generate_latest(MemoryCollector(system.kernel))
        if actor.models is None:  # of whose models it was is not known
            text += generate_latest(HiddenCollector(system.tasks.anonymiser))
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return routes


class ServingCollector(Collector):
    """The metrics of one system, read from its engines whenever they are asked for.

    Args:
        shows: says of a model's name whether it is told of.
    """

    def __init__(self, fleet: Fleet, shows: Callable[[str], bool]) -> None:
        self._fleet = fleet
        self._shows = shows

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        telemetry = self._fleet.telemetry
        yield from _engine(telemetry)
        yield from _gauges([one for one in self._fleet.status() if self._shows(one["name"])])
        tallies = [(name, model) for name, model in telemetry if self._shows(name)]
        classes = [
            ((name, priority.name.lower()), model.classes[priority])
            for name, model in tallies
            for priority in Priority
            if model.classes[priority].outcomes or model.classes[priority].prompt_tokens
        ]
        yield from _served(classes)
        preemptions = CounterMetricFamily(
            "llmos_preemptions", "Rows that gave way to others.", labels=_LABELS
        )
        for name, model in tallies:
            _add_classes(preemptions, name, model.preemptions)
        yield preemptions
        for event, help_text in _EVENTS.items():
            family = CounterMetricFamily(f"llmos_{event}", help_text, labels=("model",))
            for name, model in tallies:
                family.add_metric((name,), model.events[event])
            yield family


class HiddenCollector(Collector):
    """How much personal data was hidden on its way to models, and from them."""

    def __init__(self, anonymiser: Anonymiser) -> None:
        self._anonymiser = anonymiser

    def collect(self) -> Iterator[Metric]:
        """Yield the metric family."""
        hidden = CounterMetricFamily(
            "llmos_personal_data_hidden",
            "Pieces of personal data hidden in prompts and answers.",
            labels=("where", "type"),
        )
        for labels, count in sorted(self._anonymiser.counts.items()):
            hidden.add_metric(labels, count)
        yield hidden


def _engine(telemetry: Telemetry) -> Iterator[Metric]:
    starts = CounterMetricFamily("llmos_engine_starts", "Engine processes started.")
    starts.add_metric((), telemetry.engine_starts)
    deaths = CounterMetricFamily("llmos_engine_deaths", "Engine processes that died or hung.")
    deaths.add_metric((), telemetry.engine_deaths)
    return iter((starts, deaths))


def _gauges(models: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    running = GaugeMetricFamily("llmos_running", "Works being computed.", labels=_LABELS)
    waiting = GaugeMetricFamily("llmos_waiting", "Works in the queue.", labels=_LABELS)
    kv_use = GaugeMetricFamily(
        "llmos_kv_cache_use_ratio", "Share of the KV cache that rows hold.", labels=("model",)
    )
    num_bytes = GaugeMetricFamily(
        "llmos_model_bytes", "Memory reserved for the model.", labels=("model",)
    )
    for model in models:
        _add_classes(running, model["name"], model["running"])
        _add_classes(waiting, model["name"], model["waiting"])
        if model["kv_use"] is not None:
            kv_use.add_metric((model["name"],), model["kv_use"])
        if model["state"] != "absent":
            num_bytes.add_metric((model["name"],), model["bytes"])
    return iter((running, waiting, kv_use, num_bytes))


def _served(classes: Iterable[tuple[tuple[str, str], Tally]]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "llmos_requests", "Requests that ended.", labels=(*_LABELS, "outcome")
    )
    prompt = CounterMetricFamily("llmos_prompt_tokens", "Prompt tokens read.", labels=_LABELS)
    generated = CounterMetricFamily("llmos_generated_tokens", "Tokens sampled.", labels=_LABELS)
    ttft = HistogramMetricFamily(
        "llmos_time_to_first_token_seconds", "From request to first token.", labels=_LABELS
    )
    itl = HistogramMetricFamily(
        "llmos_inter_token_seconds", "From one token to the next.", labels=_LABELS
    )
    for labels, tally in classes:
        for outcome, count in tally.outcomes.items():
            requests.add_metric((*labels, outcome), count)
        prompt.add_metric(labels, tally.prompt_tokens)
        generated.add_metric(labels, tally.generated_tokens)
        _add_histogram(ttft, labels, tally.ttft_s)
        _add_histogram(itl, labels, tally.itl_s)
    return iter((requests, prompt, generated, ttft, itl))


def _add_histogram(
    family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram
) -> None:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    family.add_metric(labels, buckets, histogram.total)


def _add_classes(
    family: CounterMetricFamily | GaugeMetricFamily, model: str, counts: Sequence[float]
) -> None:
    for priority, count in zip(Priority, counts, strict=True):
        family.add_metric((model, priority.name.lower()), count)
