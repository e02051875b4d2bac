"""The operator that makes conversations of every usual form into those of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from llmos.data.chat_formats import FIELDS, Form, Talk, read_talk, write_talk
from llmos.data.pipeline.operator import Operator, Options
from llmos.data.pipeline.record import Record


class ConversationsOptions(Options):
    to: Form = Field(
        default="messages",
        description="the form to write; messages is what recipes take, of preferences with chosen "
        "and rejected",
    )
    tools: Literal["drop", "keep"] = Field(
        default="drop",
        description="conversations that call tools, of which recipes learn nothing yet",
    )


class Conversations(Operator[ConversationsOptions]):
    """Recognises conversations and preferences in the forms of ShareGPT, Alpaca, OpenAI and DPO
    pairs, and writes them in one.

    Conversations without an answer, and preferences of two equal answers, are dropped. Other fields
    stay.

    >>> from llmos.data.pipeline.steps import apply
    >>> rows = [{"instruction": "翻译", "input": "Hello", "output": "你好", "lang": "zh"},
    ...     {"conversations": [{"from": "human", "value": "Hi"}],
    ...      "chosen": {"from": "gpt", "value": "Hello!"},
    ...      "rejected": {"from": "gpt", "value": "?"}}]
    >>> records = [Record(str(number), row) for number, row in enumerate(rows)]
    >>> for record in apply([Conversations()], records).records:
    ...     print(record.fields)
    {'lang': 'zh', 'messages': [{'role': 'user', 'content': '翻译\\nHello'}, \
{'role': 'assistant', 'content': '你好'}]}
    {'messages': [{'role': 'user', 'content': 'Hi'}], 'chosen': 'Hello!', 'rejected': '?'}
    """

    name = "conversations"
    group = "shape"
    options_type = ConversationsOptions

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            talk = read_talk(record.fields)
            record.dropped_reason = self._reason(talk)
            if record.dropped_reason is None:
                others = {key: one for key, one in record.fields.items() if key not in FIELDS}
                record.fields = others | write_talk(talk, self.options.to)
            yield record

    def _reason(self, talk: Talk) -> str | None:
        if talk.calls_tools and self.options.tools == "drop":
            return "tool calls"
        if talk.is_preference:
            return "equal answers" if talk.chosen == talk.rejected else None
        answers = [turn for turn in talk.messages if turn["role"] == "assistant"]
        return None if answers else "no answer"
