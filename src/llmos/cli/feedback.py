"""What teaches: `llmos feedback` says what was right or wrong with an answer, and lists what was
said; `llmos teach` gives rows of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import age, note, print_json, print_table

SHOWN_CHARS = 40
ModelArgument = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="The model that answered.")
]
GoodOption = Annotated[
    bool | None, typer.Option("--good/--bad", help="Whether its answer was good.")
]
ResponseOption = Annotated[
    str | None,
    typer.Option("--response", metavar="ID", help="A response that was stored or kept, not MODEL."),
]
RatingOption = Annotated[
    int | None, typer.Option(min=1, max=5, help="Of a kept response: 5 is best.")
]
CorrectionOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What a kept response should have been.")
]
CommentOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="On a kept response, for people.")
]
ChoiceOption = Annotated[
    int, typer.Option(min=0, help="Which answer of a response that has several.")
]
LanguageOption = Annotated[
    str | None, typer.Option("--language", metavar="LANG", help="Of the answer: zh, en_zh.")
]
ForgetOption = Annotated[
    int | None, typer.Option(metavar="N", help="Forget what was said under this number.")
]
LimitOption = Annotated[int, typer.Option(min=1, max=1000, help="How many to list.")]


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    root.command("feedback", rich_help_panel="Models")(feedback)
    root.command("teach", rich_help_panel="Train")(teach)


def feedback(
    model: ModelArgument = None,
    good: GoodOption = None,
    response: ResponseOption = None,
    rating: RatingOption = None,
    correction: CorrectionOption = None,
    comment: CommentOption = None,
    choice: ChoiceOption = 0,
    language: LanguageOption = None,
    forget: ForgetOption = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Say whether an answer was good, or what it should have been; or list what was said.

    Models whose answers are good get more of what "auto" is asked. What is said of kept answers
    (`llmos answers on`) can be learned: a recipe names it as feedback:MODEL.

    Examples:
      llmos feedback starter-chat --good
      llmos feedback --response resp_0123456789abcdef --bad
      llmos feedback --response chatcmpl-0123456789abcdef --correction "It is in Paris."
      llmos feedback starter-chat --json
      llmos feedback --forget 7
    """
    more: dict[str, Any] = {"rating": rating, "correction": correction, "comment": comment}
    says_more = any(value is not None for value in more.values())
    _check(model, good, response, says_more, forget)
    with open_client(server, home) as client:
        if forget is not None:
            client.forget_feedback(forget)
            typer.echo(f"feedback {forget} is forgotten")
            return
        if good is None and not says_more:
            _list(client.feedback_given(model, limit=limit), as_json)
            return
        noted = client.feedback(
            good, model=model, response_id=response, language=language, choice=choice, **more
        )
    if as_json:
        print_json(noted)
        return
    typer.echo(_told(noted))
    if response is not None and "id" not in noted:
        note("it is not kept to be learned from: `llmos answers on` keeps the answers to come")


def teach(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model that is to learn.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows, as JSON lines.")],
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Give a model rows to learn beside feedback; those that are there already are left out.

    So a file that grows can be given again and again. Nothing is learned before a training of
    feedback:MODEL.

    Examples:
      llmos teach my-model conversations.jsonl
    """
    from llmos.data.sources import FileSource

    rows = [row for _, row in FileSource(file, str(file), "jsonl").rows()]
    with open_client(server, home) as client:
        told = client.teach(model, rows)
    if as_json:
        print_json(told)
    else:
        typer.echo(f"{told['added']} new rows for {told['model']}, {told['known']} were there")


def _check(
    model: str | None,
    good: bool | None,
    response: str | None,
    says_more: bool,
    forget: int | None,
) -> None:
    """Refuse options that do not go together."""
    says = says_more or good is not None
    if forget is not None:
        if says or model or response:
            raise typer.BadParameter("--forget stands alone")
    elif not says:
        if response is not None:
            raise typer.BadParameter("say --good, --bad, --rating, --correction or --comment")
    elif (model is None) == (response is None):
        raise typer.BadParameter("give a model or --response, one of the two")
    elif model is not None and says_more:
        raise typer.BadParameter("--rating, --correction and --comment are of a --response")


def _told(noted: Mapping[str, Any]) -> str:
    kept = f", feedback {noted['id']}" if "id" in noted else ""
    if noted["good"] is None:
        return f"kept with the answer of {noted['model']}{kept}"
    task = noted["task"]
    return f"noted for {noted['model']} ({task}): {'good' if noted['good'] else 'bad'}{kept}"


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    print_table(
        ("id", "model", "verdict", "asked", "answered", "correction", "comment", "when"),
        (
            (
                row["id"],
                row["model"],
                _verdict(row),
                _short(_asked(row["prompt"])),
                _short(row["text"]),
                _short(row["correction"] or ""),
                _short(row["comment"] or ""),
                age(row["at"]),
            )
            for row in rows
        ),
        empty="no feedback on kept answers: `llmos feedback --response ID --good` gives some",
    )


def _verdict(row: Mapping[str, Any]) -> str:
    word = {True: "good", False: "bad", None: ""}[row["good"]]
    return word if row["rating"] is None else f"{word} {row['rating']}/5".strip()


def _asked(prompt: Any) -> str:
    """Return the text of a prompt, or of its last turn."""
    if isinstance(prompt, str):
        return prompt
    last = prompt[-1] if prompt else ""
    return str(last["content"]) if isinstance(last, dict) else "token ids"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"
