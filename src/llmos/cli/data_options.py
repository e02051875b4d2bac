"""The options of commands of `llmos data`, each defined once. Nothing here does any work."""

from __future__ import annotations

from typing import Annotated

import typer

DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="Dataset: name, name:number or name@alias.")
]
SourceArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="SOURCE",
        help="File or folder; https://…, hf://OWNER/NAME, s3://BUCKET/KEY, feedback:MODEL, "
        "answers:MODEL.",
    ),
]
NameOption = Annotated[str, typer.Option("--name", help="Of the dataset.")]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="text, jsonl, pdf, …; else by each suffix.")
]
EncodingOption = Annotated[
    str | None, typer.Option("--encoding", help="As utf-8, gb18030; found out by default.")
]
UnitOption = Annotated[
    str | None,
    typer.Option("--unit", help="A row of a text: paragraph, line, page, document."),
]
ColumnsOption = Annotated[
    str | None, typer.Option("--columns", metavar="A,B,…", help="Where no header names them.")
]
OnBadOption = Annotated[
    str | None, typer.Option("--on-bad", help="Bad rows: skip (the default) or stop.")
]
MaxBadOption = Annotated[
    float | None, typer.Option("--max-bad", help="Share of bad rows to bear (0.01).")
]
LicenseOption = Annotated[str | None, typer.Option("--license", help="As CC-BY-4.0.")]
OriginOption = Annotated[str | None, typer.Option("--source", help="Where it comes from.")]
DescriptionOption = Annotated[str | None, typer.Option("--description", help="For its card.")]
ReadsOption = Annotated[
    str | None,
    typer.Option("--reads", help="Feedback as chat (the default), preferences or generate."),
]
SqlOption = Annotated[
    str | None, typer.Option("--sql", help="Rows of a query that reads the database at --url.")
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="LLMOS_SQL_URL", help="sqlite:///FILE or postgresql://…."),
]
