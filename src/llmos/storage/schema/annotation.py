"""Tables of annotation: what is to be labelled, by whom, who has which item now, every label."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
)

from llmos.storage.schema.base import metadata

annotation_tasks = Table(
    "annotation_tasks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("dataset", String, nullable=False),  # name:number
    Column("scheme", JSON, nullable=False),  # what is asked of each item
    Column("instructions", String, nullable=False),
    Column("consent", String, nullable=False),  # what annotators agree to first; empty: nothing
    Column("overlap", Integer, nullable=False),  # how many label each item
    Column("annotators", JSON, nullable=False),  # owners of keys; none: the owner alone
    Column("order", String, nullable=False),  # dataset | random | uncertain
    Column("lease_s", Float, nullable=False),
    Column("state", String, nullable=False),  # filling | open | closed
    Column("left_out", JSON, nullable=False),  # why rows are no items -> how many
    Column("job_id", Integer, ForeignKey("jobs.id")),  # that fills it
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_annotation_tasks_owner", annotation_tasks.c.owner, annotation_tasks.c.id)

annotation_items = Table(
    "annotation_items",
    metadata,
    Column("task_id", Integer, ForeignKey("annotation_tasks.id"), primary_key=True),
    Column("place", Integer, primary_key=True),  # of the row in the dataset, from 0
    Column("row", String, nullable=False),  # its id
    Column("shown", JSON, nullable=False),  # the fields that annotators see
    Column("rank", Float, nullable=False),  # the lowest is given first
    Column("taken", Integer, nullable=False, default=0),  # turns that hold it or have labelled it
    Column("is_open", Boolean, nullable=False, default=True),  # it wants more annotators
    Column("suggestion", JSON),  # a model's label
    Column("suggested_by", String),  # that model, name:number
    Column("confidence", Float),
    Column("final_id", Integer),  # the label that a reviewer gave it
    Column("size_bytes", Integer, nullable=False),
    Column("owner", String, nullable=False),
)
Index(
    "ix_annotation_items_open",
    annotation_items.c.task_id,
    annotation_items.c.is_open,
    annotation_items.c.rank,
    annotation_items.c.place,
)

annotation_turns = Table(
    "annotation_turns",  # what an item is to an annotator now
    metadata,
    Column("task_id", Integer, primary_key=True),
    Column("annotator", String, primary_key=True),  # an owner of keys
    Column("place", Integer, primary_key=True),
    Column("state", String, nullable=False),  # leased | lapsed | labelled | skipped
    Column("leased_until", Float),
    Column("label_id", Integer),  # the newest
    Column("flagged", Boolean, nullable=False, default=False),
    Column("owner", String, nullable=False),
)
Index("ix_annotation_turns_place", annotation_turns.c.task_id, annotation_turns.c.place)
Index(
    "ix_annotation_turns_state",
    annotation_turns.c.task_id,
    annotation_turns.c.state,
    annotation_turns.c.annotator,
)

annotation_labels = Table(
    "annotation_labels",  # all there ever were; none is changed
    metadata,
    Column("id", Integer, primary_key=True),
    Column("task_id", Integer, nullable=False),
    Column("place", Integer, nullable=False),
    Column("annotator", String, nullable=False),
    Column("role", String, nullable=False),  # label | final
    Column("skipped", Boolean, nullable=False),
    Column("value", JSON, nullable=False),
    Column("flag", String),  # what is wrong with the item
    Column("suggested_by", String),  # the model whose suggestion was shown
    Column("actor", String, nullable=False),  # the key
    Column("owner", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    sqlite_autoincrement=True,  # an export takes those up to a number
)
Index("ix_annotation_labels_place", annotation_labels.c.task_id, annotation_labels.c.place)
Index("ix_annotation_labels_task", annotation_labels.c.task_id, annotation_labels.c.id)

annotation_consents = Table(
    "annotation_consents",
    metadata,
    Column("task_id", Integer, primary_key=True),
    Column("annotator", String, primary_key=True),
    Column("after_id", Integer, nullable=False),  # labels given after this one count
    Column("actor", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("at", Float, nullable=False),
)
