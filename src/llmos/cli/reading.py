"""Commands that have a model read: fill-mask, answer, rate, parse."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import print_json, print_table
from llmos.cli.tasks import PANEL, TextArgument, naming_the_way, read_text
from llmos.data.sentences import sentences


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("fill-mask", rich_help_panel=PANEL)(fill_mask)
    app.command("answer", rich_help_panel=PANEL)(answer)
    app.command("rate", rich_help_panel=PANEL)(rate)
    app.command("parse", rich_help_panel=PANEL)(parse)


def fill_mask(
    text: TextArgument = None,
    model: Annotated[str, typer.Option("--model", help="Model to use.")] = "fill_mask",
    top: Annotated[int, typer.Option("--top", min=1, max=100, help="Show so many, the best.")] = 5,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Fill each [MASK] of a text with what is likeliest there.

    Examples:
      llmos fill-mask "Alice lives in [MASK]." --model my-encoder
      llmos fill-mask 我喜欢喝[MASK]。 --model my-encoder
    """
    with open_client(server, home) as client, naming_the_way("fill_mask", model):
        done = client.fill_mask(read_text(text), model=model, top_k=top)
    if as_json:
        print_json(done)
        return
    rows = (
        (number, fill["token"], f"{fill['score']:.3f}", fill["text"])
        for number, fills in enumerate(done["masks"], 1)
        for fill in fills
    )
    print_table(("mask", "token", "score", "text"), rows, empty="no masks")


def answer(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What is asked.")],
    context: Annotated[
        str | None,
        typer.Argument(
            metavar="CONTEXT", help="The text to look in; standard input where left out."
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Model to use.")] = "answer",
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Find the answer to a question in a text.

    Examples:
      llmos answer "Where does Alice live?" "Alice lives in Paris." --model my-reader
      llmos answer "Who signed?" --model my-reader < letter.txt
    """
    with open_client(server, home) as client, naming_the_way("answer", model):
        done = client.answer(question, read_text(context), model=model)
    if as_json:
        print_json(done)
    else:
        typer.echo(f"{done['text'] or 'no answer'} ({done['score']:.1%})")


def rate(
    text: TextArgument = None,
    model: Annotated[str, typer.Option("--model", help="Model to use.")] = "rate",
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Give a text a number.

    Examples:
      llmos rate "The food was great." --model my-rater
    """
    with open_client(server, home) as client, naming_the_way("rate", model):
        done = client.rate(read_text(text), model=model)
    if as_json:
        print_json(done)
    else:
        typer.echo(f"{done['score']:.3f}")


def parse(
    text: TextArgument = None,
    model: Annotated[str, typer.Option("--model", help="Model to use.")] = "parse",
    words: Annotated[
        str | None,
        typer.Option(
            "--words", metavar="MODEL", help="Model that finds the words, where no spaces do."
        ),
    ] = None,
    as_conllu: Annotated[bool, typer.Option("--conllu", help="Print CoNLL-U.")] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Say which word of a sentence hangs below which, and how.

    Examples:
      llmos parse "The cook opened the door." --model my-parser
      llmos parse 厨师打开了门。 --model my-parser-zh --words my-words
      llmos parse --model my-parser --conllu < letter.txt
    """
    given = read_text(text)
    with open_client(server, home) as client, naming_the_way("parse", model):
        if words is None:
            done = client.parse(given, model=model)
        else:
            found: list[Any] = []
            for start, end in sentences(given):
                spans = client.entities(given[start:end], model=words)["entities"]
                done = client.parse([span["text"] for span in spans], model=model)
                found += done["sentences"]
            done = {**done, "sentences": found}
    if as_json:
        print_json(done)
    elif as_conllu:
        typer.echo("".join(_conllu(sentence["words"]) for sentence in done["sentences"]), nl=False)
    else:
        rows = (
            (word["id"], word["text"], word["upos"], word["head"], word["deprel"])
            for sentence in done["sentences"]
            for word in sentence["words"]
        )
        print_table(("id", "word", "upos", "head", "deprel"), rows, empty="no words")


def _conllu(words: list[dict[str, Any]]) -> str:
    """Return a sentence as CoNLL-U; what is not known of a word is `_`."""
    lines = [
        f"{one['id']}\t{one['text']}\t_\t{one['upos']}\t_\t_\t{one['head']}\t{one['deprel']}\t_\t_\n"
        for one in words
    ]
    return "".join([*lines, "\n"])
