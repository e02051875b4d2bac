"""Commands that put texts through one task: translate, classify, entities, embed, rerank."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import print_json, print_table
from llmos.errors import InvalidRequestError, ModelNotFoundError

PANEL = "Use"
COMMA = re.compile("[,，、]")
CJK_SHARE = 0.3
"""Share of a text's letters that are Chinese characters from which it is taken for Chinese."""

TextArgument = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="The text; standard input where left out.")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("translate", rich_help_panel=PANEL)(translate)
    app.command("classify", rich_help_panel=PANEL)(classify)
    app.command("entities", rich_help_panel=PANEL)(entities)
    app.command("embed", rich_help_panel=PANEL)(embed)
    app.command("rerank", rich_help_panel=PANEL)(rerank)


def translate(
    text: TextArgument = None,
    target: Annotated[
        str | None, typer.Option("--to", metavar="LANG", help="Language to translate to.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="LANG", help="Language of the text; en or zh is detected."),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Model to use.")] = "machine_translation",
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Translate a text.

    Examples:
      llmos translate "Hello, world!" --to zh
      llmos translate 你好 --to en
      cat letter.txt | llmos translate --from en --to zh
    """
    given = read_text(text)
    source = source or detect_language(given)
    target = target or ("en" if source == "zh" else "zh")
    with open_client(server, home) as client:
        answer = client.translate(given, source, target, model=model)
    if as_json:
        print_json(answer)
    else:
        typer.echo(answer["text"])


def classify(
    text: TextArgument = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Model to use: sentiment, or embeddings with labels."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="A,B,…", help="Choose among these, not the model's own."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option("--template", metavar="TEXT", help="What a label describes: 'It is {}.'"),
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Say which label fits a text, by default its sentiment; or which of any labels.

    Examples:
      llmos classify "The food was great."
      llmos classify 这家餐厅很好吃
      llmos classify "I waited an hour." --json
      llmos classify "Who won the match?" --labels "sport,politics" --model my-embedder
    """
    wanted = None if labels is None else [label.strip() for label in COMMA.split(labels)]
    named = model or ("sentiment" if wanted is None else "embeddings")
    options = {} if template is None else {"template": template}
    with open_client(server, home) as client, naming_the_way("embeddings", named):
        answer = client.classify(read_text(text), named, wanted, **options)
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"{answer['label']} ({answer['score']:.1%})")


def entities(
    text: TextArgument = None,
    model: Annotated[str, typer.Option("--model", help="Model to use.")] = "entities",
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Find the people, places, organizations, dates, times and sums of money in a text.

    Examples:
      llmos entities "Alice flew from Paris to Beijing on Monday."
      llmos entities 王芳星期一从北京飞到上海。 --json
    """
    with open_client(server, home) as client:
        answer = client.entities(read_text(text), model=model)
    if as_json:
        print_json(answer)
        return
    rows = (
        (found["text"], found["label"], found["start"], found["end"], f"{found['score']:.3f}")
        for found in answer["entities"]
    )
    print_table(("text", "label", "start", "end", "score"), rows, empty="no entities found")


def embed(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT…",
            help="Texts; the lines of standard input where left out, blank ones skipped.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Model to use.")] = "embeddings",
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", min=1, help="Keep the first so many numbers.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", metavar="NAME", help="The model's prompt to put before each text."
        ),
    ] = None,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Turn texts into vectors; prints one JSON array of numbers a text.

    Examples:
      llmos embed "Hello, world!" --model my-embedder
      llmos embed --model my-embedder < lines.txt > vectors.jsonl
      llmos default embeddings my-embedder
    """
    given = texts or read_lines()
    with open_client(server, home) as client, naming_the_way("embeddings", model):
        vectors = client.embed(given, model=model, dimensions=dimensions, prompt_name=prompt)
    for vector in vectors:
        typer.echo(json.dumps(vector))


def rerank(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What is looked for.")],
    documents: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DOCUMENT…",
            help="Texts; the lines of standard input where left out, blank ones skipped.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Model to use.")] = "rerank",
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Show only so many, the best.")
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Order texts by how well they answer a query, the best first.

    Examples:
      llmos rerank "capital of France" "Paris is in France." "Cats sleep." --model my-ranker
      llmos rerank "capital of France" --top 3 < lines.txt
    """
    given = documents or read_lines()
    with open_client(server, home) as client, naming_the_way("rerank", model):
        results = client.rerank(query, given, model=model, top_n=top)
    if as_json:
        print_json(results)
        return
    rows = (
        (f"{one['relevance_score']:.4f}", one["index"], one["document"]["text"]) for one in results
    )
    print_table(("score", "index", "document"), rows, empty="no documents")


def read_text(argument: str | None) -> str:
    """Return the text given as an argument, else what is piped in.

    Raises:
        InvalidRequestError: there is none.
    """
    if argument is None and not sys.stdin.isatty():
        argument = sys.stdin.read().strip("\n")
    if not argument or not argument.strip():
        raise InvalidRequestError("no text was given: pass one as an argument or pipe it in")
    return argument


def read_lines() -> list[str]:
    """Return the lines of what is piped in, without blank ones.

    Raises:
        InvalidRequestError: there are none.
    """
    return [line for line in read_text(None).splitlines() if line.strip()]


@contextmanager
def naming_the_way(task: str, model: str) -> Iterator[None]:
    """Say how to name a model where none was named and the task has no default."""
    try:
        yield
    except ModelNotFoundError as error:
        if model != task:
            raise
        raise ModelNotFoundError(
            f"no model answers for {task} yet: name one with `--model`, or set one with "
            f"`llmos default {task} MODEL`",
            param="model",
        ) from error


def detect_language(text: str) -> str:
    """Return ``zh`` where Chinese characters make up much of the letters, else ``en``."""
    letters = [char for char in text if char.isalpha()]
    chinese = sum("\u3400" <= char <= "\u9fff" for char in letters)
    return "zh" if letters and chinese / len(letters) >= CJK_SHARE else "en"
