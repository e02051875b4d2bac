"""Files to fine-tune on: every row looked at by what will read it, before a job is queued."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from llmos.data.record import Preference, Record, to_record
from llmos.errors import DataError, TrainingFileError
from llmos.training.examples import fraction, held_back, texts_of

Method = Literal["supervised", "dpo"]
READS: dict[Method, str] = {"supervised": "chat", "dpo": "preferences"}
"""What an example is, by method: as a recipe reads it."""
MAX_FILE_BYTES = 64 * 2**20
MAX_ROWS = 100_000
MAX_FAULTS = 5
"""Faults that are looked for and told; more of them say nothing new."""
TURN_TOKENS = 24
"""More than chat templates put around a turn."""

CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class TuningFile:
    """What is known of a file whose rows are all good."""

    fractions: tuple[float, ...]
    """Of each row, see `training.examples.fraction`."""
    longest_tokens: int
    """No row has more, what a chat template adds included."""

    def num_trained(self, share: float, shown: str) -> int:
        """Return how many rows are left to train on when a share of them is held back.

        Raises:
            DataError: there are fewer than two different rows.
        """
        highest = held_back(self.fractions, share, shown)
        return sum(one > highest for one in self.fractions)


def check_file(
    lines: Iterable[bytes],
    method: Method,
    seed: int,
    count_tokens: CountTokens,
    context_tokens: int,
    param: str,
) -> TuningFile:
    """Read a whole file; blocks for seconds.

    Args:
        lines: of the file, in order.
        seed: of the recipe that will read it.
        count_tokens: of a text, by the model's tokenizer.
        context_tokens: a row that is longer cannot be learned.
        param: the field that names the file.

    Raises:
        TrainingFileError: it has no rows, too many, or some that cannot be learned; the first few
            are told with line and reason.
    """
    fractions: list[float] = []
    faults: list[dict[str, str | int]] = []
    longest = 0
    for number, line in enumerate(lines, 1):
        if len(faults) == MAX_FAULTS:
            break
        if not line.strip():
            continue
        try:
            record = _record(line, method, is_first=number == 1)
            longest = max(longest, _num_tokens(record, count_tokens, context_tokens))
        except DataError as error:
            faults.append({"line": number, "code": "invalid_row", "message": error.message})
            continue
        fractions.append(fraction(record, seed))
        if len(fractions) > MAX_ROWS:
            reason = (
                f"there are more than {MAX_ROWS} rows: `llmos train` takes as many as there are"
            )
            faults = [{"line": number, "code": "too_many_rows", "message": reason}]
            break
    if faults:
        told = "; ".join(f"line {fault['line']}: {fault['message']}" for fault in faults)
        raise TrainingFileError(f"The file cannot be learned. {told}.", param=param, lines=faults)
    if not fractions:
        raise TrainingFileError("The file has no rows: give it a JSON object a line.", param=param)
    return TuningFile(tuple(fractions), min(longest, context_tokens))


def _record(line: bytes, method: Method, is_first: bool) -> Record:
    try:
        text = line.decode("utf-8-sig" if is_first else "utf-8")
        row = json.loads(text)
    except UnicodeDecodeError as error:
        raise DataError(f"it is not UTF-8 (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"it must be a JSON object, not {type(row).__name__}")
    if row.get("tools") or row.get("functions"):
        raise DataError("it has tools, and only texts are learned from")
    record = to_record(READS[method], row, "it")
    try:
        "".join(texts_of(record)).encode()
    except UnicodeEncodeError:
        raise DataError("it has half a character: a surrogate that stands alone") from None
    return record


def _num_tokens(record: Record, count: CountTokens, context_tokens: int) -> int:
    """Return a bound on the tokens of a row. Raises DataError where its texts alone are too many
    for the model; those after are not counted."""
    texts = texts_of(record)
    num_turns = len(texts)
    if isinstance(record, Preference):  # two answers to the same turns: two rows
        num_turns -= 2
    before = longest = 0
    for place, text in enumerate(texts):
        num_tokens = before + count(text)
        if num_tokens > context_tokens:
            reason = f"it has {num_tokens} tokens or more, and the model takes {context_tokens}"
            raise DataError(reason)
        longest = max(longest, num_tokens)
        if place < num_turns:
            before = num_tokens
    return longest + TURN_TOKENS * (len(texts) + 1)
