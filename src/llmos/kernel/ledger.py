"""The byte ledger of one device: nothing takes memory that was not reserved here first."""

from __future__ import annotations

from llmos.errors import OutOfMemoryError

FREE_SHARE = 0.8
PARKING_PARTS = 32
LEAST_PARKING_BYTES = 2**20


def job_key(job_id: int) -> str:
    """Return the key of a job's reservation."""
    return f"job:{job_id}"


def shares(
    set_bytes: int, num_engines: int, host_bytes: int, device_bytes: int | None
) -> tuple[int, int]:
    """Return how many bytes each engine gets: its ledger, of the memory that it computes in, and
    beside that for what it parks, always of the host's.

    Args:
        set_bytes: what the user lets all engines have together; 0: 80% of what is free.
        host_bytes: free on the host.
        device_bytes: free on the device of each engine; None: they compute on the host.
    """
    part_bytes = set_bytes // num_engines
    of_host_bytes = int(host_bytes * FREE_SHARE) // num_engines
    if device_bytes is not None:
        return part_bytes or int(device_bytes * FREE_SHARE), parking_bytes(of_host_bytes)
    all_bytes = part_bytes or of_host_bytes
    return all_bytes - parking_bytes(all_bytes), parking_bytes(all_bytes)


def parking_bytes(capacity_bytes: int) -> int:
    """Return what of the memory engines may use for what they keep of models that were swapped out;
    it is not in the ledger. Where it is too little to keep anything of use, nothing."""
    num_bytes = capacity_bytes // PARKING_PARTS
    return num_bytes if num_bytes >= LEAST_PARKING_BYTES else 0


class Ledger:
    """Reservations by key, in bytes; their sum never exceeds ``capacity_bytes``."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._reserved: dict[str, int] = {}

    @property
    def reserved_bytes(self) -> int:
        return sum(self._reserved.values())

    @property
    def free_bytes(self) -> int:
        return self.capacity_bytes - self.reserved_bytes

    def reservations(self) -> dict[str, int]:
        """Return a copy of every reservation: key -> bytes."""
        return dict(self._reserved)

    def reserved(self, key: str) -> int | None:
        """Return the reservation of ``key`` in bytes; None when it has none."""
        return self._reserved.get(key)

    def reserve(self, key: str, num_bytes: int) -> None:
        """Set ``num_bytes`` aside for ``key``.

        Raises:
            OutOfMemoryError: so much is not free; nothing was reserved.
            ValueError: ``key`` has a reservation already, or ``num_bytes`` is negative.
        """
        if key in self._reserved or num_bytes < 0:
            raise ValueError(f"cannot reserve {num_bytes} bytes for {key}")
        self._set(key, num_bytes)

    def correct(self, key: str, measured_bytes: int) -> None:
        """Replace an estimate by what was measured.

        Raises:
            OutOfMemoryError: the difference is not free; the reservation stays as it was, so the
                holder must give the memory back.
            KeyError: ``key`` has no reservation.
        """
        if measured_bytes < 0:
            raise ValueError(f"cannot reserve {measured_bytes} bytes for {key}")
        self._reserved[key]
        self._set(key, measured_bytes)

    def release(self, key: str) -> None:
        """Give the bytes of ``key`` back; no-op when it has none."""
        self._reserved.pop(key, None)

    def _set(self, key: str, num_bytes: int) -> None:
        free_bytes = self.free_bytes + self._reserved.get(key, 0)
        if num_bytes > free_bytes:
            raise OutOfMemoryError(
                f"{key} needs {format_bytes(num_bytes)} of memory and "
                f"{format_bytes(free_bytes)} of {format_bytes(self.capacity_bytes)} is free."
            )
        self._reserved[key] = num_bytes


def format_bytes(num_bytes: int) -> str:
    """Return a size for people: ``1.5 GB``."""
    for unit, unit_bytes in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if num_bytes >= unit_bytes:
            return f"{num_bytes / unit_bytes:.1f} {unit}"
    return f"{num_bytes} B"
