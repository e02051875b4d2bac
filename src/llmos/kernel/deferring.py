"""Which works wait in the server, as requests of the upper classes have the device. Pure.

Beside requests to its own model a work of the lower classes goes along in their steps, where
`engines.native.batcher.plan` sees to their targets. Of another model every step is one more that
they wait for, and so is a load.
"""

from __future__ import annotations

from llmos.types import Priority

DEFER_S = 60.0
"""A work waits so long at most."""


def is_urgent(priority: Priority) -> bool:
    """Whether a work has others of the lower classes wait for it."""
    return priority <= Priority.STANDARD


def is_deferred(priority: Priority, num_urgent_elsewhere: int, waited_s: float) -> bool:
    """Whether a work is kept from a device for now.

    Args:
        num_urgent_elsewhere: urgent works that the device has for other models.
        waited_s: how long it has waited.
    """
    return not is_urgent(priority) and num_urgent_elsewhere > 0 and waited_s < DEFER_S
