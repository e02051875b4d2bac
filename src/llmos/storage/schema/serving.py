"""Tables of what clients leave: responses, files, batches, answers to be replayed."""

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

responses = Table(
    "responses",
    metadata,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("previous_id", String),  # the response this one goes on from
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
    Column("size_bytes", Integer, nullable=False),
    Column("input", JSON, nullable=False),  # the items it was asked with
    Column("body", JSON, nullable=False),  # the response as the client got it
)
Index("ix_responses_owner", responses.c.owner, responses.c.created_at, responses.c.size_bytes)

uploads = Table(
    "uploads",  # /v1/files
    metadata,
    Column("id", String, primary_key=True),
    Column("filename", String, nullable=False),
    Column(
        "purpose", String, nullable=False
    ),  # batch | batch_output | fine-tune | fine-tune-results
    Column("digest", String, nullable=False, index=True),
    Column("size_bytes", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
)
Index("ix_uploads_owner", uploads.c.owner, uploads.c.created_at)

batches = Table(
    "batches",  # /v1/batches; what becomes of one, its job says
    metadata,
    Column("id", String, primary_key=True),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("endpoint", String, nullable=False),
    Column("input_file_id", String, nullable=False),
    Column("output_file_id", String),
    Column("error_file_id", String),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("completion_window", String, nullable=False),
    Column("notes", JSON),  # the client's metadata
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("cancelling_at", Float),
    Column("finalizing_at", Float),
    Column("ended_at", Float),
    Column("ended_as", String),  # completed | failed | expired | cancelled
)
Index("ix_batches_owner", batches.c.owner, batches.c.created_at)

fine_tunings = Table(
    "fine_tunings",  # /v1/fine_tuning/jobs; what becomes of one, its job says
    metadata,
    Column("id", String, primary_key=True),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("model", String, nullable=False),  # the version that it began with
    Column("training_file", String, nullable=False),
    Column("validation_file", String),
    Column("method", String, nullable=False),  # supervised | dpo
    Column("hyperparameters", JSON, nullable=False),  # as they are, none of them "auto"
    Column("suffix", String),
    Column("seed", Integer, nullable=False),
    Column("notes", JSON),  # the client's metadata
    Column("result_file", String),
    Column("trained_tokens", Integer),
    Column("owner", String, nullable=False),
    Column("created_at", Float, nullable=False),
)
Index("ix_fine_tunings_owner", fine_tunings.c.owner, fine_tunings.c.created_at)

answers = Table(
    "answers",  # of owners who have them kept
    metadata,
    Column("id", String, primary_key=True),
    Column("asked", String, nullable=False),
    Column("model", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("runs_as", String, nullable=False),
    Column("request", JSON, nullable=False),
    Column("outputs", JSON, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("owner", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("size_bytes", Integer, nullable=False),  # of what was asked and what came
)
Index("ix_answers_owner", answers.c.owner, answers.c.at, answers.c.size_bytes)

answer_keepers = Table(
    "answer_keepers",
    metadata,
    Column("owner", String, primary_key=True),
    Column("since", Float, nullable=False),
)

feedback = Table(
    "feedback",  # what was said of answers, with what those were, to be learned from
    metadata,
    Column("id", Integer, primary_key=True),
    Column("answer", String, nullable=False),  # kept; row-…: one that was given to be learned
    Column("model", String, nullable=False),  # that answered
    Column("prompt", JSON, nullable=False),
    Column("text", String, nullable=False),  # of the answer
    Column("finish_reason", String),
    Column("good", Boolean),
    Column("rating", Integer),
    Column("correction", String),
    Column("comment", String),
    Column("actor", String, nullable=False),  # the key that said so
    Column("owner", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    sqlite_autoincrement=True,  # what was learned is known by it: a number is never given out again
)
Index("ix_feedback_owner", feedback.c.owner, feedback.c.id, feedback.c.size_bytes)

learned = Table(
    "learned",  # how far the micro-updates of a model have come in what they learn from
    metadata,
    Column("owner", String, primary_key=True),
    Column("name", String, primary_key=True),  # of the model that learns
    Column("source", String, primary_key=True),  # feedback:NAME
    Column("upto", Integer, nullable=False),  # the last piece that was taken
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),  # which took it
    Column("at", Float, nullable=False),
)

verdicts = Table(
    "verdicts",  # of people on answers that have an id: said again, one counts once
    metadata,
    Column("owner", String, primary_key=True),  # who said so
    Column("answer", String, primary_key=True),
    Column("model", String, nullable=False),
    Column("task", String, nullable=False),
    Column("language", String, nullable=False),
    Column("good", Boolean, nullable=False),
    Column("at", Float, nullable=False),
)
Index("ix_verdicts_owner", verdicts.c.owner, verdicts.c.at)
