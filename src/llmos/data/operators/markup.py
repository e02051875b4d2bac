"""Operators that take text out of HTML."""

from __future__ import annotations

from typing import ClassVar

import regex
from pydantic import Field

from llmos.data.pipeline.operator import Mapper, TextOptions

_LOOKS_LIKE_HTML = regex.compile(
    r"<\s*(?:!doctype|html|head|body|div|p|span|article|table|ul|ol|h[1-6]|br|a)\b[^<>]*>",
    regex.IGNORECASE,
)
_WHOLE = regex.compile(r"<\s*html\b", regex.IGNORECASE)


class HtmlOptions(TextOptions):
    tables: bool = Field(default=True, description="keep the text of tables")
    comments: bool = Field(default=False, description="keep what readers wrote below an article")


class HtmlText(Mapper[HtmlOptions]):
    """Takes the main text out of HTML, without menus, footers and other boilerplate, by
    trafilatura; where it finds none, all text that is no markup. Texts without tags stay.

    >>> tried(HtmlText(), "<p>Hello, world.</p>", "<div>你好，世界。</div>", "1 < 2")
    ['Hello, world.', '你好，世界。', '1 < 2']
    """

    name = "html_text"
    needs: ClassVar[dict[str, str]] = {"trafilatura": "trafilatura>=2.3"}
    options_type = HtmlOptions

    def change(self, text: str) -> str:
        """Return the main text."""
        if not _LOOKS_LIKE_HTML.search(text):
            return text
        from lxml.html import fromstring
        from trafilatura import extract

        page = text if _WHOLE.search(text) else f"<html><body>{text}</body></html>"
        found = extract(
            page,
            include_comments=self.options.comments,
            include_tables=self.options.tables,
            deduplicate=False,
        )
        return str(found) if found else str(fromstring(page).text_content()).strip()
