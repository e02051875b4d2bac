"""The policies by name: llmos's own way with a cluster, and those it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llmos.simulate.baselines import Fifo, LeastLoaded, StaticPartition
from llmos.simulate.clock import Events
from llmos.simulate.cluster import Policy
from llmos.simulate.scenario import Scenario
from llmos.simulate.steering import Llmos

POLICIES: Mapping[str, Callable[[Scenario, Events], Policy]] = {
    "llmos": Llmos,
    "fifo": Fifo,
    "static": StaticPartition,
    "least-loaded": LeastLoaded,
}
