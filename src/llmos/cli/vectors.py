"""Commands about word vectors: what is alike, analogies, and files of the text format."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import print_json, print_table

app = typer.Typer(no_args_is_help=True)
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Model of word vectors.")]
CountOption = Annotated[int, typer.Option("--n", min=1, help="How many words to show.")]


def register(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="vectors", rich_help_panel="Use")


@app.callback()
def vectors() -> None:
    """Ask word vectors which words are alike and what stands in the same relation; exchange them
    as text.

    Examples:
      llmos vectors similar my-vectors king
      llmos vectors import glove.6B.100d.txt --name glove
    """


@app.command("similar")
def similar(
    model: ModelArgument,
    word: Annotated[str, typer.Argument(metavar="WORD")],
    n: CountOption = 10,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show the words nearest to a word, by the cosine.

    Examples:
      llmos vectors similar my-vectors king
      llmos vectors similar my-vectors 国王 --n 3 --json
    """
    from llmos.sdk.models import Model

    with open_client(server, home) as client:
        found = Model(client, client.model(model)).similar(word, n)
    _show(found, as_json)


@app.command("analogy")
def analogy(
    model: ModelArgument,
    a: Annotated[str, typer.Argument(metavar="A")],
    b: Annotated[str, typer.Argument(metavar="B")],
    c: Annotated[str, typer.Argument(metavar="C")],
    n: CountOption = 10,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show what is to C as B is to A: the words nearest to B - A + C.

    Examples:
      llmos vectors analogy my-vectors man king woman
      llmos vectors analogy my-vectors france paris japan --n 1
    """
    from llmos.sdk.models import Model

    with open_client(server, home) as client:
        found = Model(client, client.model(model)).analogy(a, b, c, n)
    _show(found, as_json)


@app.command("import")
def import_text(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Text: a word and its numbers.")],
    name: Annotated[str, typer.Option("--name", help="Name in the library.")],
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Import vectors from the text format of word2vec (with a first line of sizes) or GloVe.

    Examples:
      llmos vectors import glove.6B.100d.txt --name glove
    """
    from llmos.cli.progress import follow_job, transfer
    from llmos.data.word_vectors import read_text, write_imported

    table = read_text(path)
    with TemporaryDirectory() as folder, open_client(server, home) as client:
        write_imported(Path(folder), table)
        with transfer("uploading") as on_progress:
            job = client.import_model(folder, name, on_progress, dtype="stored")
        done = follow_job(client, job["id"], "importing")
    if as_json:
        print_json(done)
    else:
        count, size = table.matrix.shape
        for ref in done["result"]["artifacts"]:
            typer.echo(f"{ref} is ready: {count:,} words, {size} numbers each")


@app.command("export")
def export_text(
    model: ModelArgument,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write to.")],
    header: Annotated[
        bool, typer.Option(help="Begin with a line of sizes, as word2vec does and GloVe does not.")
    ] = True,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Write vectors in the text format of word2vec, or of GloVe with --no-header.

    Examples:
      llmos vectors export my-vectors vectors.txt
    """
    from llmos.data.word_vectors import WordVectors, write_text
    from llmos.errors import ConflictError
    from llmos.sdk.models import Model

    if path.exists():
        raise ConflictError(f"{path} exists already: name a new file.", param="path")
    with open_client(server, home) as client:
        table = Model(client, client.model(model)).vectors
    known = [place for place, word in enumerate(table.words) if word in table]
    chosen = WordVectors([table.words[place] for place in known], table.matrix[known])
    write_text(path, chosen, header=header)
    typer.echo(f"{len(known):,} words are in {path}")


def _show(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        rows = ((one["word"], f"{one['score']:.3f}") for one in found)
        print_table(("word", "score"), rows, empty="there are no other words")
