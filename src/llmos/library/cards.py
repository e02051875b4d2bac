"""A version's card: everything a person wants to know before using a model, as Markdown."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from llmos.kernel.ledger import format_bytes
from llmos.library import catalog
from llmos.library.adapters import AdapterManifest, parse_adapter
from llmos.library.gates import numbers_of
from llmos.library.manifest import Manifest, parse_manifest
from llmos.library.versions import Version

_USES = {
    "chat": 'llmos run {ref} "Hello"',
    "generate": 'llmos run {ref} "Once upon a time"',
    "translate": 'llmos translate "Hello" --model {ref}',
    "classify": 'llmos.load_model("{ref}").classify("…")',
    "entities": 'llmos.load_model("{ref}").entities("…")',
    "embed": 'llmos embed "…" --model {ref}',
    "rerank": 'llmos rerank "query" "document" "document" --model {ref}',
    "fill_mask": 'llmos fill-mask "I like [MASK]." --model {ref}',
    "answer": 'llmos answer "Who sings?" "Alice sings." --model {ref}',
    "rate": 'llmos rate "…" --model {ref}',
    "parse": 'llmos parse "…" --model {ref}',
}
_OVERALL = "validation"
"""The split that metrics outside any split were measured on."""


def render(
    version: Version,
    running: Version | None = None,
    evaluations: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the card of a model or adapter version: the same text for the same version.

    Args:
        running: what is loaded where this version is asked for, if that is another.
        evaluations: of the version, the oldest first.
    """
    read = parse_adapter if version.kind == "adapter" else parse_manifest
    manifest = read(version.manifest)
    tasks = getattr(manifest, "heads", None) or [manifest.task]
    use = "\n".join(_USES.get(task, "").format(ref=version.full_name) for task in tasks)
    sections = [
        ("", _plain(manifest.description)),
        ("", _table(("", ""), [*_facts(version, manifest), *_runs_as(version, running)])),
        ("Use", _fenced(use)),
        ("Metrics", _metrics(manifest.metrics)),
        ("Evaluations", _evaluations(evaluations)),
        ("Trained and served alike", _parity(manifest.parity or {})),
        ("What it cannot do", _plain(manifest.limits)),
        ("For real work", "\n".join(map(_recommendation, manifest.recommended))),
        ("Lineage", _table(("", ""), _lineage(version, manifest))),
        ("Recipe", _recipe(manifest.recipe or {})),
        ("Files", _table(("file", "size"), _files(version))),
    ]
    written = [f"## {title}\n\n{text}" if title else text for title, text in sections if text]
    return "\n\n".join([f"# {version.ref}", *written]) + "\n"


def format_count(count: int) -> str:
    """Return a count for people: ``4.5M``, ``1.2B``."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{suffix}"
    return str(count)


def _facts(version: Version, manifest: Manifest | AdapterManifest) -> list[tuple[str, str]]:
    shape, limits = _shape(manifest)
    facts = [
        ("task", ", ".join(getattr(manifest, "heads", None) or [manifest.task])),
        *shape,
        ("parameters", format_count(manifest.parameters) if manifest.parameters else ""),
        ("size", format_bytes(version.size_bytes)),
        ("dtype", manifest.dtype),
        *(_quantization(manifest) if isinstance(manifest, Manifest) else ()),
        *limits,
        ("licence", manifest.license),
        ("aliases", ", ".join(f"@{alias}" for alias in version.aliases)),
    ]
    return [(name, value) for name, value in facts if value]


def _runs_as(version: Version, running: Version | None) -> list[tuple[str, str]]:
    if running is None or running.id == version.id:
        return []
    return [("runs as", f"{running.ref} ({running.manifest['dtype']})")]


def _quantization(manifest: Manifest) -> list[tuple[str, str]]:
    """Return what a quantised model was made of, how much smaller it is, and how far from it."""
    facts = manifest.quantization or {}
    if "base" not in facts:
        return []
    of = facts.get("base_weights_bytes")
    ratio = f"{manifest.weights_bytes / of:.0%} of its size" if of else ""
    measured = manifest.metrics.get("quantization") or {}
    error = ""
    if measured:
        error = (
            f"logits {measured['relative_error']:.1%} off, the same likeliest token at "
            f"{measured['top1_agreement']:.0%} of {measured['tokens']} positions"
        )
    return [("quantised from", "; ".join(filter(None, (str(facts["base"]), ratio, error))))]


def _shape(
    manifest: Manifest | AdapterManifest,
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return what kind of network it is, or what an adapter changes in which; and what it takes."""
    languages = ("languages", ", ".join(manifest.languages))
    if isinstance(manifest, AdapterManifest):
        method = ("method", f"LoRA, rank {manifest.rank}")
        changes = ("changes", ", ".join(manifest.target_modules))
        return [("adapter of", manifest.base), method, changes], [languages]
    limits = [
        ("context", _tokens(manifest.context_tokens)),
        ("vocabulary", _tokens(manifest.vocab_size)),
        languages,
        ("labels", ", ".join(manifest.labels or [])),
    ]
    return [("architecture", f"{manifest.architecture} ({manifest.model_type})")], limits


def _tokens(count: int) -> str:
    return f"{count} tokens" if count else ""


def _files(version: Version) -> list[tuple[str, str]]:
    return [(name, format_bytes(file.size)) for name, file in version.files.items()]


def _recommendation(name: str) -> str:
    entry = catalog.find(name)
    line = f"- `llmos pull {_plain(name)}`"
    if entry is None:
        return line
    size = f"{format_count(entry.parameters)} parameters, {format_bytes(entry.download_bytes)}"
    return f"{line}: {entry.summary} ({size})"


# -- metrics ---------------------------------------------------------------------------------------


def _metrics(metrics: Mapping[str, Any]) -> str:
    """Return one table, a row per split, then what is words rather than numbers, said once."""
    rows, words = _by_split(metrics)
    columns = list(dict.fromkeys(column for values in rows.values() for column in values))
    columns.sort(key=lambda column: column == "rows")  # how many there were: last
    table = _table(
        ("split", *columns),
        [
            (split, *(values.get(column, "") for column in columns))
            for split, values in rows.items()
        ],
    )
    said = [f"- {_plain(name)}: `{_plain(text)}`" for name, text in words]
    return "\n\n".join(part for part in (table, "\n".join(said)) if part)


def _by_split(
    metrics: Mapping[str, Any],
) -> tuple[dict[str, dict[str, str]], list[tuple[str, str]]]:
    """Return each split's numbers as text, and the metrics that are texts, such as signatures."""
    outside = {
        name.removeprefix(f"{_OVERALL}_"): value
        for name, value in metrics.items()
        if not isinstance(value, dict)
    }
    splits = {_OVERALL: outside} if outside else {}
    for split, values in metrics.items():
        if isinstance(values, dict):
            splits[split] = splits.get(split, {}) | values
    rows: dict[str, dict[str, str]] = {}
    words: list[tuple[str, str]] = []
    for split, values in splits.items():
        for name, value in _leaves(values):
            if isinstance(value, str):
                words.append((name, value))
            else:
                rows.setdefault(split, {})[name] = _number(value)
    return rows, list(dict.fromkeys(words))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``("f1 by class: positive", value)`` for every leaf of nested metrics."""
    for key, value in values.items():
        name = prefix + key.replace("_", " ")
        if isinstance(value, dict):
            yield from _leaves(value, f"{name}: ")
        else:
            yield name, value


def _evaluations(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a row per metric, as gates name it: of each dataset, and of each who
    measured on it, what was found last."""
    newest = {(one["dataset"], one["owner"]): one for one in evaluations}.values()
    rows: list[tuple[str, ...]] = []
    said: list[str] = []
    for one in newest:
        dataset = f"{one['dataset']}/"
        about = (str(one["num_rows"]), one["owner"] or "", _time(one["at"]))
        for name, value in numbers_of(one["metrics"], dataset).items():
            rows.append((name, _number(int(value) if value.is_integer() else value), *about))
        words = ((name, text) for name, text in one["metrics"].items() if isinstance(text, str))
        said += [f"- {_plain(dataset + name)}: `{_plain(text)}`" for name, text in words]
    table = _table(("metric", "", "rows", "by", "when"), rows)
    return "\n\n".join(part for part in (table, "\n".join(dict.fromkeys(said))) if part)


def _parity(report: Mapping[str, Any]) -> str:
    """Return what was compared between the trainer's model and the engine, and what differed."""
    rows = [(name, _number(value)) for name, value in _leaves(report)]
    return _table(("compared", ""), rows)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# -- lineage and recipe ----------------------------------------------------------------------------


def _lineage(version: Version, manifest: Manifest | AdapterManifest) -> list[tuple[str, str]]:
    """Return what the version was made of, how, when and by whom, as far as it is known."""
    source = dict(manifest.source)
    known: dict[str, Any] = {name: source.pop(name, None) for name in ("kind", "data", "base")}
    inputs = [text for text in version.inputs if text not in known.values()]
    known["inputs"] = ", ".join(inputs)
    known |= {name: source.pop(name, None) for name in ("steps", "seed", "seconds")}
    known |= {name.replace("_", " "): value for name, value in source.items()}
    known |= {"job": version.job_id, "made": _time(version.created_at), "owner": version.owner}
    known["digest"] = version.digest
    rows = ((name, _value(value)) for name, value in known.items())
    return [(name, text) for name, text in rows if text]


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return str(value)


def _recipe(recipe: Mapping[str, Any]) -> str:
    """Return the recipe as a YAML block; its card section is this card."""
    kept = {key: value for key, value in recipe.items() if key != "card"}
    if not kept:
        return ""
    text = yaml.dump(kept, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=90)
    return _fenced(text.rstrip("\n"), "yaml")


class _Dumper(yaml.SafeDumper):
    """Writes short lists of scalars on one line and long texts line by line, as people do."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def represent_items(self, items: list[Any]) -> yaml.SequenceNode:
        flow = not any(isinstance(item, dict) for item in items)
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(list, _Dumper.represent_items)


# -- Markdown --------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("\n", " ")


def _fenced(text: str, language: str = "") -> str:
    """Return a code block whose fence is longer than any in ``text``, which cannot end it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}" if text else ""


def _plain(text: str) -> str:
    """Escape what Markdown would take for HTML: cards hold strangers' words."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
