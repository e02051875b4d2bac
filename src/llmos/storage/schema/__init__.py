"""Every table. Times are Unix seconds, JSON columns hold plain JSON, every row has an owner."""

from __future__ import annotations

from llmos.storage.schema.accounts import (
    audit as audit,
)
from llmos.storage.schema.accounts import (
    keys as keys,
)
from llmos.storage.schema.accounts import (
    quotas as quotas,
)
from llmos.storage.schema.accounts import (
    usage_daily as usage_daily,
)
from llmos.storage.schema.annotation import (
    annotation_consents as annotation_consents,
)
from llmos.storage.schema.annotation import (
    annotation_items as annotation_items,
)
from llmos.storage.schema.annotation import (
    annotation_labels as annotation_labels,
)
from llmos.storage.schema.annotation import (
    annotation_tasks as annotation_tasks,
)
from llmos.storage.schema.annotation import (
    annotation_turns as annotation_turns,
)
from llmos.storage.schema.base import metadata as metadata
from llmos.storage.schema.library import (
    aliases as aliases,
)
from llmos.storage.schema.library import (
    blob_owners as blob_owners,
)
from llmos.storage.schema.library import (
    deployment_events as deployment_events,
)
from llmos.storage.schema.library import (
    deployments as deployments,
)
from llmos.storage.schema.library import (
    evaluations as evaluations,
)
from llmos.storage.schema.library import (
    lineage as lineage,
)
from llmos.storage.schema.library import (
    outcomes as outcomes,
)
from llmos.storage.schema.library import (
    routes as routes,
)
from llmos.storage.schema.library import (
    task_defaults as task_defaults,
)
from llmos.storage.schema.library import (
    version_files as version_files,
)
from llmos.storage.schema.library import (
    versions as versions,
)
from llmos.storage.schema.serving import (
    answer_keepers as answer_keepers,
)
from llmos.storage.schema.serving import (
    answers as answers,
)
from llmos.storage.schema.serving import (
    batches as batches,
)
from llmos.storage.schema.serving import (
    feedback as feedback,
)
from llmos.storage.schema.serving import (
    fine_tunings as fine_tunings,
)
from llmos.storage.schema.serving import (
    learned as learned,
)
from llmos.storage.schema.serving import (
    responses as responses,
)
from llmos.storage.schema.serving import (
    uploads as uploads,
)
from llmos.storage.schema.serving import (
    verdicts as verdicts,
)
from llmos.storage.schema.work import (
    deliveries as deliveries,
)
from llmos.storage.schema.work import (
    job_after as job_after,
)
from llmos.storage.schema.work import (
    job_events as job_events,
)
from llmos.storage.schema.work import (
    jobs as jobs,
)
from llmos.storage.schema.work import (
    measurements as measurements,
)
from llmos.storage.schema.work import (
    runs as runs,
)
from llmos.storage.schema.work import (
    schedules as schedules,
)
from llmos.storage.schema.work import (
    webhooks as webhooks,
)
