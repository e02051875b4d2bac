"""Conditions on what was measured of a version, which must hold before an alias moves to it.

A gate is a line of text: a metric, ``>=`` or ``<=``, and a number or what the version that the
alias means now has, with a slack:

    test/accuracy >= 0.9
    test/bleu_en_zh >= current - 0.5
    validation_loss <= current * 1.02

A metric is ``dataset/name``, of a model's further tasks ``task/dataset/name``, or a bare name of
one that belongs to no dataset; `evaluations` says which ones a version has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmos.errors import ConflictError, InvalidRequestError

MAX_GATES = 64
_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_GATE = re.compile(
    rf"\s*(?P<metric>[\w.-]+(?:/[\w.-]+)*)\s*(?P<sign>>=|<=)\s*"
    rf"(?:(?P<number>-?{_NUMBER})|current(?:\s*(?P<change>[-+*])\s*(?P<by>{_NUMBER}))?)\s*"
)


class GateFailedError(ConflictError):
    """The version does not pass the gate."""

    code = "gate_failed"


@dataclass(frozen=True, slots=True)
class Measured:
    """A version by its ref, and what was measured of it, by the names of gates.

    Attributes:
        data: of metrics that an evaluation measured, what that was of; those that the training left
            are not named.
        tasks: of a model of several, the first one first.
    """

    ref: str
    metrics: Mapping[str, float]
    data: Mapping[str, str] = field(default_factory=dict)
    tasks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition: ``number``, or where that is None the current version's metric changed by
    ``by`` (added, taken off or multiplied with, as ``change`` says)."""

    metric: str
    sign: Literal[">=", "<="]
    number: float | None = None
    change: Literal["+", "-", "*"] = "+"
    by: float = 0.0

    def bound(self, current: float | None) -> float | None:
        """Return what the metric is held against; None: against nothing, as nothing is current."""
        if self.number is not None or current is None:
            return self.number
        match self.change:
            case "+":
                return current + self.by
            case "-":
                return current - self.by
            case "*":
                return current * self.by

    def __str__(self) -> str:
        if self.number is not None:
            return f"{self.metric} {self.sign} {self.number:g}"
        changed = f" {self.change} {self.by:g}" if self.by else ""
        return f"{self.metric} {self.sign} current{changed}"


@dataclass(frozen=True, slots=True)
class Check:
    """What became of a gate: the metric's value, what it was held against, and the verdict."""

    gate: Gate
    value: float
    bound: float | None
    passed: bool

    def __str__(self) -> str:
        if self.bound is None:
            return f"{self.gate}: {self.value:g}, and no version to compare with"
        return f"{self.gate}: {self.value:g} against {self.bound:g}"


def parse_gate(text: str) -> Gate:
    """Return the gate that a line says. Raises InvalidRequestError."""
    found = _GATE.fullmatch(text[:1000])
    if found is None:
        raise InvalidRequestError(
            f"{text[:100]!r} is no gate: write one like 'test/accuracy >= 0.9' or "
            "'validation_loss <= current * 1.02'",
            param="gates",
        )
    sign: Literal[">=", "<="] = ">=" if found["sign"] == ">=" else "<="
    if found["number"] is not None:
        return Gate(found["metric"], sign, float(found["number"]))
    change = found["change"]
    if change is None:
        return Gate(found["metric"], sign)
    signs: dict[str, Literal["+", "-", "*"]] = {"+": "+", "-": "-", "*": "*"}
    return Gate(found["metric"], sign, None, signs[change], float(found["by"]))


def parse_gates(texts: Sequence[str]) -> tuple[Gate, ...]:
    """Return the gates that lines say. Raises InvalidRequestError: one is none, or too many."""
    if len(texts) > MAX_GATES:
        raise InvalidRequestError(f"At most {MAX_GATES} gates, not {len(texts)}.", param="gates")
    return tuple(map(parse_gate, texts))


def check_gates(
    gates: Sequence[Gate], version: Measured, current: Measured | None
) -> tuple[Check, ...]:
    """Hold a version against gates.

    Args:
        current: what the alias means now; None: nothing, and what is relative to it passes.

    Raises:
        InvalidRequestError: a gate is on a metric that one of the two versions does not have, or
            one relative to the current version on one that was measured on other data there.
    """
    return tuple(_check(gate, version, current) for gate in gates)


def require(checks: Sequence[Check], ref: str) -> None:
    """Pass silently if every gate was passed. Raises GateFailedError, which names the others."""
    failed = [str(check) for check in checks if not check.passed]
    if failed:
        raise GateFailedError(f"{ref} does not pass the gate: {'; '.join(failed)}.")


def numbers_of(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers among nested metrics, as ``prefix/outer/inner``."""
    return dict(_flat(metrics, prefix))


def _check(gate: Gate, version: Measured, current: Measured | None) -> Check:
    value = _metric(gate, version)
    if gate.number is None and current is not None:
        bound = gate.bound(_metric(gate, current))
        _check_data(gate.metric, version, current)
    else:
        bound = gate.bound(None)
    if bound is None:
        return Check(gate, value, None, True)
    passed = value >= bound if gate.sign == ">=" else value <= bound
    return Check(gate, value, bound, passed)


def _metric(gate: Gate, version: Measured) -> float:
    if gate.metric not in version.metrics:
        known = ", ".join(sorted(version.metrics)) or "none"
        message = f"{version.ref} has no metric {gate.metric!r}; it has: {known}."
        raise InvalidRequestError(message + _how_to_measure(gate.metric, version), param="gates")
    return version.metrics[gate.metric]


def _how_to_measure(metric: str, version: Measured) -> str:
    """Return the command that measures a metric, and what gates call what it measures."""
    path = metric.split("/")
    task = path.pop(0) if path[0] in version.tasks else ""
    if len(path) < 2:
        return ""
    options = f"--task {task} --dataset {path[0]}" if task else f"--dataset {path[0]}"
    name = f"{task}/{path[0]}" if task in version.tasks[1:] else path[0]
    return f" `llmos evaluate {version.ref} FILE {options}` measures those of {name}."


def _check_data(metric: str, version: Measured, current: Measured) -> None:
    if version.data.get(metric) != current.data.get(metric):
        raise InvalidRequestError(
            f"{metric!r} of {version.ref} was not measured on the same rows as that of "
            f"{current.ref}, so they cannot be compared: evaluate both on the same file.",
            param="gates",
        )


def _flat(metrics: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            found.append((f"{prefix}{name}", float(value)))
    return found
