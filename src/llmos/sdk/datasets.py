"""The part of the client that adds datasets, looks at them, and runs operators over them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from llmos.errors import ConflictError, CorruptBlobError, DataError
from llmos.sdk import dataset_layout, transfer
from llmos.sdk.asking import given
from llmos.sdk.exporting import FORMATS, write_as
from llmos.sdk.transfer import OnProgress
from llmos.sdk.transport import Json, Transport

_LINES = (
    *(".txt", ".md", ".markdown", ".jsonl", ".ndjson", ".json"),
    *(".csv", ".tsv", ".conll", ".conllu"),
)
SUFFIXES = (
    *_LINES,
    *(f"{suffix}.gz" for suffix in _LINES),
    *(".parquet", ".html", ".htm", ".xhtml", ".pdf", ".docx", ".epub", ".warc", ".warc.gz"),
    *(".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"),
)
"""Of the files of a folder that are added, where no format is given."""
_ELSEWHERE = re.compile(r"(https?|hf|s3)://|(feedback|answers):")
Format = Literal["parquet", "jsonl", "csv", "tsv", "txt"]


class Collecting:
    """Keeps datasets on the server behind ``transport``."""

    transport: Transport

    def datasets(self) -> list[Json]:
        """Every version of every dataset, the newest first."""
        return self.transport.list("GET", "/api/v1/datasets")

    def dataset(self, ref: str) -> Json:
        """One version: its schema, statistics and files, and how it was made.

        Raises:
            DatasetNotFoundError: there is none.
        """
        return self.transport.json("GET", _path(ref))

    def dataset_head(self, ref: str, rows: int = 10) -> list[Json]:
        """Its first rows, at most 100; long texts are cut."""
        return self.transport.list("GET", f"{_path(ref)}/head", params={"rows": str(rows)})

    def dataset_card(self, ref: str) -> str:
        """Its card as Markdown."""
        return self.transport.response("GET", f"{_path(ref)}/card").text

    def dataset_plots(self, ref: str, target: Path | str) -> Path:
        """Write the picture of its card (PNG) into a new file.

        Raises:
            ConflictError: the file is there.
            NotFoundError: it has none, as those have that older versions of llmos made.
        """
        target = Path(target)
        _check_new(target)
        content = self.transport.response("GET", f"{_path(ref)}/files/plots.png").content
        with target.open("xb") as file:
            file.write(content)
        return target

    def add_dataset(
        self,
        path: Path | str,
        name: str,
        on_progress: OnProgress | None = None,
        **options: Any,
    ) -> Json:
        """Upload a file, or all data files of a folder and those below, and start making a dataset
        of them; returns the job. What lies elsewhere (``https://…``, ``hf://OWNER/NAME``,
        ``s3://BUCKET/KEY``, ``feedback:MODEL``, ``answers:MODEL``) is fetched by the server;
        ``hf://./FOLDER`` is a dataset of the Hugging Face kind that lies here.

        Args:
            options: ``format``, ``encoding``, ``unit``, ``columns``, ``on_bad``, ``max_bad``,
                ``license``, ``source`` and ``description``, see docs/data.md.

        Raises:
            DataError: there is no such file, or nothing in the folder.
        """
        source = uploaded(self.transport, str(path), options.get("format"), on_progress)
        body = {"name": name, **source, **options}
        return self.transport.json("POST", "/api/v1/datasets", json=given(body))

    def add_query(
        self,
        query: str,
        url: str,
        name: str,
        on_progress: OnProgress | None = None,
        **options: Any,
    ) -> Json:
        """Read a database by a query that only reads, here and by your own rights, upload its rows
        and start making a dataset of them; returns the job.

        Args:
            url: ``sqlite:///FILE`` or ``postgresql://…``, as SQLAlchemy has it. It, and a password
                in it, stay here.
            options: ``license``, ``source`` and ``description``.

        Raises:
            DataError: it writes, gives no rows, or cannot be run.
        """
        from llmos.sdk import query_rows

        files: dict[str, str] = {}
        with tempfile.TemporaryDirectory(prefix="llmos-query-") as directory:
            for part in query_rows.parts(url, query, Path(directory)):
                stored = transfer.upload_file(self.transport, part, on_progress)
                files[part.name] = str(stored["digest"])
                part.unlink()
        told = {"source": query_rows.shown(url, query)} | options
        body = {"name": name, "files": files, "format": "jsonl", **told}
        return self.transport.json("POST", "/api/v1/datasets", json=given(body))

    def crawl(
        self,
        url: str,
        name: str,
        *,
        depth: int | None = None,
        pages: int | None = None,
        rate: float | None = None,
        **options: Any,
    ) -> Json:
        """Start making a dataset of the pages of a site; returns the job.

        Args:
            depth: links from the first page (2).
            pages: at most (100).
            rate: pages a second, at most (1); robots.txt may ask for fewer.
            options: ``license``, ``source`` and ``description``.
        """
        body = {"name": name, "url": url, "depth": depth, "pages": pages, "rate": rate, **options}
        return self.transport.json("POST", "/api/v1/datasets/crawl", json=given(body))

    def run_operators(self, pipeline: Json) -> Json:
        """Start a pipeline of operators, ``{"name", "input", "steps"}`` as its YAML has it, which
        makes a dataset of another; returns the job.

        Raises:
            PipelineError, DatasetNotFoundError: it could not be run.
        """
        transfer.check_json(pipeline, "pipeline")
        return self.transport.json("POST", "/api/v1/datasets/run", json={"pipeline": pipeline})

    def operators(self) -> list[Json]:
        """Every operator: ``{"name", "group", "summary", "doc", "example", "options", …}``."""
        return self.transport.list("GET", "/api/v1/operators")

    def diff_datasets(self, before: str, after: str) -> Json:
        """Start comparing two datasets by the ids of their rows; returns the job, whose result is
        ``{"same", "changed", "added", "removed", "samples"}``."""
        body = {"before": before, "after": after}
        return self.transport.json("POST", "/api/v1/datasets/diff", json=body)

    def check_k_anonymity(self, ref: str, fields: Sequence[str], **options: Any) -> Json:
        """Start counting which rows of a dataset are alike in some fields; returns the job, whose
        result is ``{"dataset", "rows", "fields", "k", "sensitive", "diversity", "is_k_anonymous",
        "groups", "smallest", "least_values", "small_groups", "small_rows", "samples": [{"fields",
        "rows", "values"}]}``: ``small`` are the groups that are too small, samples the smallest.

        Args:
            options: ``k`` (5), ``sensitive``, the field of which rows that are alike must have some
                ``diversity`` (2) of values.
        """
        body = {"input": ref, "fields": list(fields), **options}
        return self.transport.json("POST", "/api/v1/datasets/k_anonymity", json=given(body))

    def split_dataset(self, ref: str, parts: Mapping[str, float], **options: Any) -> Json:
        """Start splitting a dataset into parts by their shares, each a dataset of its own that is
        called NAME-PART; returns the job.

        Args:
            options: ``name``; ``by``, ``stratify`` or ``time``, a field; ``seed``: see
                docs/data.md.
        """
        body = {"input": ref, "parts": dict(parts), **options}
        return self.transport.json("POST", "/api/v1/datasets/split", json=given(body))

    def mix_datasets(self, name: str, weights: Mapping[str, float], **options: Any) -> Json:
        """Start mixing datasets by weights into one; returns the job.

        Args:
            options: ``rows`` of all, ``repeat``, ``seed`` and ``description``, see docs/data.md.
        """
        body = {"name": name, "inputs": dict(weights), **options}
        return self.transport.json("POST", "/api/v1/datasets/mix", json=given(body))

    def remove_dataset(self, ref: str) -> Json:
        """Remove a version (a tombstone stays; `gc` frees the space)."""
        return self.transport.json("DELETE", _path(ref))

    def export_dataset(
        self,
        ref: str,
        target: Path | str,
        format: Format | None = None,
        on_progress: OnProgress | None = None,
    ) -> Path:
        """Write a dataset's rows into a new file (jsonl, csv, tsv, txt), or its files, as they are
        kept, with its card into a new folder (parquet); each is checked against its digest.

        Args:
            format: by the target's suffix unless given, else parquet.

        Raises:
            ConflictError: the target is there.
            DataError: the rows do not fit the format.
        """
        target = Path(target)
        _check_new(target)
        wanted = format or FORMATS.get(suffix := target.suffix.lower(), "parquet")
        if format is None and suffix and suffix not in FORMATS:
            raise DataError(
                f"what to write into {target.name} is not known: files end in "
                f"{', '.join(FORMATS)}; a folder of this name needs the format parquet",
                param="target",
            )
        version = self.dataset(ref)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            shards = [shard["file"] for shard in version["manifest"]["shards"]]
            names = list(version["files"]) if wanted == "parquet" else shards
            for name in names:
                self._download(version, name, partial, on_progress)
            if wanted == "parquet":
                (partial / "README.md").write_text(self.dataset_card(version["ref"]), "utf-8")
                partial.chmod(0o755)
                partial.replace(target)
            else:
                made = partial / "made"
                write_as(wanted, [partial / name for name in shards], version["manifest"], made)
                made.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target

    def _download(
        self, version: Json, name: str, directory: Path, on_progress: OnProgress | None
    ) -> None:
        file, hasher, done = version["files"][name], hashlib.sha256(), 0
        url = f"{_path(version['ref'])}/files/{quote(name, safe='')}"
        with (
            self.transport.stream("GET", url) as response,
            (directory / Path(name).name).open("wb") as out,
        ):
            for piece in response.iter_bytes(transfer.PIECE_BYTES):
                hasher.update(piece)
                out.write(piece)
                done += len(piece)
                if on_progress:
                    on_progress(name, done, int(file["size"]))
            out.flush()
            os.fsync(out.fileno())
        if "sha256:" + hasher.hexdigest() != file["digest"]:
            raise CorruptBlobError(f"{name} of {version['ref']} was damaged on its way: try again.")


def uploaded(
    transport: Transport, path: str, format: str | None, on_progress: OnProgress | None
) -> Json:
    """Upload what is here; return ``{"files"}``, or ``{"url"}`` of what the server is to fetch.

    Raises:
        DataError: there is no such file, or nothing in the folder.
    """
    if is_elsewhere(path):
        return {"url": path}
    found = _hub_folder(path) if path.startswith("hf://") else data_files(Path(path), format)
    return {
        "files": {
            shown: str(transfer.upload_file(transport, file, on_progress)["digest"])
            for shown, file in found.items()
        }
    }


def is_elsewhere(path: str) -> bool:
    """Whether the server is to fetch what is named."""
    is_local = path.startswith(("hf://.", "hf:///"))
    return bool(_ELSEWHERE.match(path)) and not is_local


def _hub_folder(path: str) -> dict[str, Path]:
    """Return the files of rows of a folder that is laid out as a dataset of a Hugging Face hub;
    what follows the folder's path is a configuration and a split."""
    folder = Path(path.removeprefix("hf://"))
    parts: list[str] = []
    while not folder.is_dir() and folder.name and len(parts) < 2:
        parts.insert(0, folder.name)
        folder = folder.parent
    if not folder.is_dir():
        raise DataError(f"There is no folder {path.removeprefix('hf://')}.", param="path")
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    readme = folder / dataset_layout.README
    text = readme.read_text("utf-8", "replace") if readme.is_file() else ""
    chosen = dataset_layout.choose(
        names, text, parts, lambda name: name.lower().endswith(tuple(SUFFIXES))
    )
    return {name: folder / name for name in chosen.paths}


def data_files(path: Path, format: str | None = None) -> dict[str, Path]:
    """Return the files to add, by what each is called: a file by its name, those of a folder by
    their place in it. Hidden files, and where no format is given those of other kinds, are left
    out.

    Raises:
        DataError: there is nothing.
    """
    if not path.is_dir():
        if not path.exists():
            raise DataError(
                f"there is no file {path}: name a file or folder of this machine, or what lies "
                "elsewhere: https://…, hf://…, s3://…, feedback:MODEL or answers:MODEL",
                param="path",
            )
        return {path.name: path}
    found = {}
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        is_data = format is not None or file.name.lower().endswith(SUFFIXES)
        if file.is_file() and not is_hidden and is_data:
            found[relative.as_posix()] = file
    if not found:
        kinds = ", ".join(SUFFIXES)
        raise DataError(f"{path} has no data files ({kinds}): name the format", param="path")
    return found


def _check_new(target: Path) -> None:
    if target.exists():
        raise ConflictError(f"{target} is there already: choose another name", param="target")


def _path(ref: str) -> str:
    return f"/api/v1/datasets/{quote(ref, safe='/:@')}"
