"""`llmos data crawl`: the pages of a site as a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from llmos.cli.connection import open_client
from llmos.cli.data_options import (
    DescriptionOption,
    LicenseOption,
    NameOption,
)
from llmos.cli.options import DetachOption, HomeOption, JsonOption, ServerOption


def register(app: typer.Typer) -> None:
    """Add this module's command to `llmos data`."""
    app.command("crawl")(crawl)


def crawl(
    url: Annotated[str, typer.Argument(metavar="URL", help="The first page.")],
    name: NameOption,
    depth: Annotated[
        int, typer.Option("--depth", min=0, max=20, help="Links from the first page.")
    ] = 2,
    pages: Annotated[int, typer.Option("--pages", min=1, max=10_000, help="At most.")] = 100,
    rate: Annotated[
        float, typer.Option("--rate", min=0.01, max=10, help="Pages a second, at most.")
    ] = 1.0,
    license: LicenseOption = None,
    description: DescriptionOption = None,
    detach: DetachOption = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Add the pages of a site as a dataset: address, title, date and text of each.

    It keeps to the site and to its robots.txt, and asks for one page at a time.

    Examples:
      llmos data crawl https://example.com/docs/ --name docs
      llmos data crawl https://example.com/ --name site --depth 3 --pages 500 --rate 0.5
    """
    from llmos.cli.data import report
    from llmos.cli.progress import watch_job

    told = {"license": license, "description": description}
    with open_client(server, home) as client:
        job = client.crawl(url, name, depth=depth, pages=pages, rate=rate, **told)
        if not detach:
            job = watch_job(client, job["id"], "crawling")
    report(job, as_json)
