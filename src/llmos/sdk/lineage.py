"""The client's part that asks where versions and answers came from, and asks again."""

from __future__ import annotations

from urllib.parse import quote

from llmos.sdk.transport import Json, Transport


class Tracing:
    """What can be asked about lineage; mixed into the client."""

    transport: Transport

    def lineage(self, ref: str) -> Json:
        """``{"versions"}``: a version (or base and adapter), the job that made it, its inputs.

        Args:
            ref: of a model, or ``dataset:NAME`` of a dataset.
        """
        name = ref.removeprefix("dataset:")
        kind = "models" if name == ref else "datasets"
        return self.transport.json("GET", f"/api/v1/lineage/{kind}/{quote(name, safe='/@:+')}")

    def answer_lineage(self, response_id: str) -> Json:
        """``{"answer", "versions"}`` of a kept answer, by its response's id."""
        return self.transport.json("GET", f"/api/v1/lineage/answers/{quote(response_id, safe='')}")

    def keep_answers(self, keeps: bool) -> Json:
        """Keep this key's owner's answers from now on, or keep no more and forget those kept."""
        return self.transport.json("PUT", "/api/v1/answers", json={"keeps": keeps})

    def keeps_answers(self) -> bool:
        """Whether this key's owner's answers are kept."""
        return bool(self.transport.json("GET", "/api/v1/answers")["keeps"])

    def replay(self, response_id: str) -> Json:
        """Ask the same of the same version again: ``{"same", "first_difference", "texts", …}``."""
        return self.transport.json("POST", "/api/v1/answers/replay", json={"id": response_id})
