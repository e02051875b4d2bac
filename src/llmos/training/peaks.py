"""What devices can compute at most: the table that model FLOPs utilisation is measured by.

Dense matrix products, TFLOP/s, from the maker's datasheets and architecture whitepapers (those that
state figures of sparse matrices, halved). They are of boost clocks: what a card reaches in a server
is less.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Precision = Literal["bfloat16", "tf32", "float32"]


class Peak(NamedTuple):
    """TFLOP/s; None: the device has no such units."""

    bfloat16: float | None
    tf32: float | None
    float32: float


PEAKS: dict[str, Peak] = {
    "B200": Peak(2250, 1100, 75),
    "GH200": Peak(989, 494, 67),
    "H200": Peak(989, 494, 67),
    "H100 NVL": Peak(835, 417, 60),
    "H100 PCIe": Peak(756, 378, 51),
    "H100": Peak(989, 494, 67),
    "A100": Peak(312, 156, 19.5),
    "A40": Peak(149.7, 74.8, 37.4),
    "A30": Peak(165, 82, 10.3),
    "A10": Peak(125, 62.5, 31.2),
    "L40S": Peak(362, 183, 91.6),
    "L40": Peak(181, 90.5, 90.5),
    "L4": Peak(121, 60, 30.3),
    "V100": Peak(None, None, 15.7),
    "T4": Peak(None, None, 8.1),
    "RTX 6000 Ada": Peak(364.2, 182.1, 91.1),
    "RTX A6000": Peak(154.8, 77.4, 38.7),
    "GeForce RTX 4090": Peak(165.2, 82.6, 82.6),
    "GeForce RTX 3090": Peak(71, 35.6, 35.6),
}
"""By how devices' names begin, as their drivers tell them, without the maker's."""
_MAKERS = ("NVIDIA ", "Tesla ")


def peak_flops(device_name: str, precision: Precision) -> float | None:
    """Return FLOP/s of dense matrix products; None where the table does not have the device, or the
    device not the precision."""
    name = device_name
    for maker in _MAKERS:
        name = name.removeprefix(maker)
    known = [begin for begin in PEAKS if f"{name} ".startswith((f"{begin} ", f"{begin}-"))]
    if not known:
        return None
    tera: float | None = getattr(PEAKS[max(known, key=len)], precision)
    return None if tera is None else tera * 1e12
