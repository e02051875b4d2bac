"""The job that has a model label the items of a task before people do: asked of the server as
clients ask, kept as suggestions with the model's version and how sure it was.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llmos.apps.annotation_filling import task_of
from llmos.apps.annotation_jobs import TASKS
from llmos.data.annotation.scheme import FIRST, SECOND, TIE, Scheme, scheme_of
from llmos.errors import JobFailedError
from llmos.evaluation.asking import Ask, ask, ask_all
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

PAGE_ITEMS = 100
MAX_TOKENS = 512
"""Of a text that is suggested."""
BEARS = frozenset({400})
"""Statuses of answers after which the next item is asked: the text is too long, say."""
MAKES = {"spans": "entities", "rating": "rate", "pairs": "rate", "text": "chat"}
"""The task of the models that suggest labels of each kind; classes any model that classifies,
embeds or writes."""

Answer = dict[str, Any]


def run(context: JobContext) -> JobResult:
    """Ask the model in ``context.params`` for a label of each item that has none of its own yet.

    Raises:
        JobFailedError: the model is not made for it, or the server refused.
        CancelledError: the job was cancelled; what was suggested stays.
    """
    params = context.params
    path, model = f"{TASKS}/{params['annotation']}", params["model"]
    task = task_of(context)
    scheme = scheme_of(task["scheme"])
    manifest = ask(context, Ask(f"/api/v1/models/{model}"))["manifest"]
    made_for = str(manifest["task"])
    _check_fits(scheme, model, manifest)
    total, after, kept = int(task["progress"]["items"]), -1, 0
    while page := ask(context, Ask(f"{path}/items?after={after}&limit={PAGE_ITEMS}"))["data"]:
        after = page[-1]["place"]
        items = [item for item in page if item["suggested_by"] != model]
        asks = [asks_of(scheme, model, made_for, item["shown"]) for item in items]
        every = [one for some in asks for one in some]
        answers = ask_all(context, every, None, BEARS)
        found = []
        for item, some in zip(items, asks, strict=True):
            told = [next(answers) for _ in some]
            if any("error" in one for one in told):
                continue
            suggested = suggestion(scheme, told)
            if suggested is not None:
                value, confidence = suggested
                found.append({"place": item["place"], "value": value, "confidence": confidence})
        if found:
            body = {"model": model, "suggestions": found}
            ask(context, Ask(f"{path}/suggestions", body))
        kept += len(found)
        context.progress(kept, max(total, kept), "suggested")
    context.log(f"{kept:,} suggestions of {model} for {total:,} items")
    return JobResult({"annotation": task["id"], "model": model, "suggested": kept, "items": total})


def _check_fits(scheme: Scheme, model: str, manifest: dict[str, Any]) -> None:
    """Refuse a model that can suggest nothing. Raises JobFailedError."""
    made_for, wanted = manifest["task"], MAKES.get(scheme.kind)
    if wanted is not None and made_for != wanted:
        raise JobFailedError(
            f"{model} is for {made_for!r}; {scheme.kind} are suggested by a model for {wanted!r}"
        )
    if made_for not in ("classify", "entities"):
        return
    labels = {str(one).removeprefix("B-").removeprefix("I-") for one in manifest["labels"] or ()}
    if not labels & set(scheme.labels):
        says = ", ".join(sorted(labels)[:10])
        raise JobFailedError(
            f"{model} says {says}, and none of that is a label of the task: "
            f"{', '.join(scheme.labels[:10])}"
        )


def asks_of(scheme: Scheme, model: str, made_for: str, shown: dict[str, Any]) -> list[Ask]:
    """Return what to ask of a model about an item."""
    texts = [_text(shown[name]) for name in scheme.fields]
    body: dict[str, Any] = {"model": model}
    match scheme.kind:
        case "classification":
            own = {} if made_for == "classify" else {"labels": list(scheme.labels)}
            return [Ask("/api/v1/classify", body | {"text": "\n".join(texts)} | own)]
        case "spans":
            return [Ask("/api/v1/entities", body | {"text": texts[0]})]
        case "rating":
            return [Ask("/api/v1/rate", body | {"text": "\n".join(texts)})]
        case "pairs":
            return [Ask("/api/v1/rate", body | {"text": text}) for text in texts]
        case "text":
            asked = shown[scheme.prompt or scheme.fields[0]]
            turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
            more = {"messages": turns, "temperature": 0, "max_tokens": MAX_TOKENS}
            return [Ask("/v1/chat/completions", body | more)]


def suggestion(scheme: Scheme, answers: list[Answer]) -> tuple[Any, float | None] | None:
    """Return the label that a model's answers about an item are, and how sure it is, in [0, 1];
    None for the latter where it does not tell, and for all where they are no label of the scheme.

    Of spans it is as sure as of the least sure one. Of two answers, rated by themselves, the better
    one is with the probability of Bradley and Terry (1952), whose scores add like logits.
    """
    first = answers[0]
    match scheme.kind:
        case "classification":
            if first["label"] not in scheme.labels:
                return None
            return ([first["label"]] if scheme.several else first["label"]), first["score"]
        case "spans":
            known = [one for one in first["entities"] if one["label"] in scheme.labels]
            spans = [{name: one[name] for name in ("start", "end", "label")} for one in known]
            return spans, min((one["score"] for one in known), default=None)
        case "rating":
            return min(max(round(first["score"]), scheme.least), scheme.most), None
        case "pairs":
            ahead = first["score"] - answers[1]["score"]
            if ahead == 0:
                return (TIE, 0.5) if scheme.ties else None
            return (FIRST if ahead > 0 else SECOND), 1 / (1 + math.exp(-min(abs(ahead), 700.0)))
        case "text":
            text = first["choices"][0]["message"]["content"]
            return (text, None) if isinstance(text, str) and text.strip() else None


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(turn.get("content", "")) for turn in value if isinstance(turn, dict))
    return str(value)
