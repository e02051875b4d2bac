"""A check that what was made of a record still means what its label says."""

from __future__ import annotations

from pydantic import Field

from llmos.data.operators.copies import is_copy
from llmos.data.pipeline.operator import Batcher, TextOptions
from llmos.data.pipeline.options import Classifier, FieldName
from llmos.data.pipeline.record import Record
from llmos.errors import DataError


class LabelCheckOptions(TextOptions):
    model: Classifier = Field(description="a classifier")
    label: FieldName = Field(default="label", description="field of the label")
    least: float = Field(default=0.0, ge=0, le=1, description="the label's score, at least")


class LabelCheck(Batcher[LabelCheckOptions]):
    """Drops copies to which a classifier does not give the label that they were made with.

    Records that no operator has made of others stay.

    >>> check = LabelCheck(model="judge")
    >>> check.ask = lambda path, bodies: [{"label": "bad", "scores": {"bad": 0.9}} for _ in bodies]
    >>> record = Record("1", {"text": "Fine", "label": "good"})
    >>> copy = Record("1~aug1", dict(record.fields), {"augment": {"of": "1", "by": "eda"}})
    >>> [(row["id"], row["reason"]) for row in apply([check], [record, copy]).outcome.dropped]
    [('1~aug1', 'label lost: bad, and not good')]
    """

    name = "label_check"
    adds = ()
    group = "augment"
    options_type = LabelCheckOptions

    def batch(self, records: list[Record]) -> list[Record]:
        """Drop copies of another label.

        Raises:
            LlmosError: the model refuses a text.
            DataError: a copy has no label.
        """
        copies = [record for record in records if is_copy(record)]
        labels = [self._label(record) for record in copies]
        model, name = self.options.model, self.options.field
        bodies = [{"model": model, "text": record.text(name)} for record in copies]
        answers = self.ask("/api/v1/classify", bodies)
        for record, label, answer in zip(copies, labels, answers, strict=True):
            score = float(answer["scores"].get(label, 0.0))
            if answer["label"] != label:
                record.dropped_reason = f"label lost: {answer['label']}, and not {label}"
            elif score < self.options.least:
                record.dropped_reason = f"label unsure: {label} {score:.2f}"
        return records

    def _label(self, record: Record) -> str:
        label = record.fields.get(self.options.label)
        if label is None:
            raise DataError(f"there is no {self.options.label!r} to compare: set `label`")
        return str(label)
