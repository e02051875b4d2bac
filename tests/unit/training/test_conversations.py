from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from llmos.data.record import Conversation, to_record
from llmos.data.sources import starter_rows
from llmos.data.tokenizers import Splitting, specials_of, train_byte_bpe
from llmos.errors import RecipeError
from llmos.training.conversations import ChatTemplate, encode
from llmos.types import Message

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS = {"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>"}
SPECIALS = specials_of("chat", ["<|im_start|>", "<|im_end|>"], "<|im_end|>")


def conversations() -> list[Conversation]:
    rows = [to_record("chat", row, where) for where, row in starter_rows("chat", "train", 0, 40)]
    return [row for row in rows if isinstance(row, Conversation)]


TEXTS = [m.content for c in conversations() for m in c.messages]
TOKENIZER = train_byte_bpe(TEXTS, SPECIALS, 600, Splitting(cjk=True))


def test_loss_falls_on_the_assistant_s_turns_and_nothing_else() -> None:
    template = ChatTemplate(TEMPLATE, TOKENS)
    for conversation, (ids, learned) in zip(
        conversations(), encode(conversations(), template, TOKENIZER), strict=True
    ):
        answers = "".join(
            m.content + "<|im_end|>" for m in conversation.messages if m.role == "assistant"
        )
        learned_ids = [token for token, counts in zip(ids, learned, strict=True) if counts]
        assert TOKENIZER.decode(learned_ids, skip_special_tokens=False) == answers


def test_token_ids_are_those_of_transformers_chat_template() -> None:
    oracle = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, **TOKENS, chat_template=TEMPLATE)
    template = ChatTemplate(TEMPLATE, TOKENS)
    for conversation, (ids, _) in zip(
        conversations(), encode(conversations(), template, TOKENIZER), strict=True
    ):
        messages = [{"role": m.role, "content": m.content} for m in conversation.messages]
        assert oracle.apply_chat_template(messages, return_dict=False) == ids


def test_an_answer_begins_where_the_served_prompt_ends() -> None:
    template = ChatTemplate(TEMPLATE, TOKENS)
    messages = (Message("user", " hi "), Message("assistant", " hello"))
    (ids, learned), *_ = encode([Conversation(messages)], template, TOKENIZER)
    prompt = template.render(messages[:1], add_generation_prompt=True)
    prompt_ids = TOKENIZER.encode(prompt, add_special_tokens=False).ids
    assert ids[: len(prompt_ids)] == prompt_ids and learned.index(1) == len(prompt_ids)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}", "is not valid Jinja"),
        ("{{ raise_exception('no system') }}", "no system"),
        ("{{ messages | length }}", "must only add text as a conversation grows"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "reaches across"),
    ],
)
def test_a_template_that_cannot_be_learned_from_is_refused(template: str, says: str) -> None:
    talk = Conversation((Message("user", "hel"), Message("assistant", "lo there")))
    tokenizer = train_byte_bpe(["hello hello there"] * 9, SPECIALS, 300, Splitting())
    with pytest.raises(RecipeError, match=says):
        list(encode([talk], ChatTemplate(template, TOKENS), tokenizer))


def test_an_answer_of_weight_0_is_read_and_not_learned() -> None:
    turns = (
        Message("user", "a"),
        Message("assistant", "one"),
        Message("user", "b"),
        Message("assistant", "two"),
    )
    template = ChatTemplate(TEMPLATE, TOKENS)
    ((ids, learned),) = encode([Conversation(turns, only_read=(1,))], template, TOKENIZER)
    counted = [token for token, counts in zip(ids, learned, strict=True) if counts]
    assert TOKENIZER.decode(counted, skip_special_tokens=False) == "two<|im_end|>"
    assert "one<|im_end|>" in TOKENIZER.decode(ids, skip_special_tokens=False)
