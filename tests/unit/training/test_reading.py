"""Spans, texts alike and numbers, against formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForQuestionAnswering, BertConfig

from llmos.data.encoding import Ragged
from llmos.data.record import Alike, Question, Rated
from llmos.data.tokenizers import Splitting, specials_of, train_byte_bpe
from llmos.training import readers
from llmos.training.reading import AlikeTexts, Questions, RatedTexts

CONFIG = BertConfig(
    vocab_size=400,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
)
CONTEXT = "Bob is a cook. Alice lives in Paris. 卡罗尔住在柏林。 " * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    specials = specials_of("answer")
    return train_byte_bpe([CONTEXT * 5], specials, 300, Splitting(cjk=True, punctuation=True))


def test_windows_of_a_long_context_mark_the_answer_where_they_hold_it(tokenizer: Tokenizer) -> None:
    start = CONTEXT.index("Paris")
    record = Question("Where does Alice live?", CONTEXT, start, start + 5)
    rows = list(readers.questions(tokenizer, [record], 48))
    assert len(rows) > 2 and all(len(row[0]) <= 48 for row in rows)
    told = [row for row in rows if tuple(row[2]) != (0, 0)]
    assert told
    for ids, types, (first, last) in told:
        assert tokenizer.decode(list(ids[first : last + 1])).strip() == "Paris"
        assert types[first] == 1 and types[0] == 0
    nothing = Question("Where?", CONTEXT, 0, 0)
    assert {tuple(row[2]) for row in readers.questions(tokenizer, [nothing], 48)} == {(0, 0)}


def test_a_span_s_loss_is_that_of_its_start_and_its_end(tokenizer: Tokenizer) -> None:
    start = CONTEXT.index("Paris")
    records = [Question("Where does Alice live?", CONTEXT[:40], start, start + 5)]
    records += [Question("Who?", CONTEXT[:15], 0, 0)]
    names = readers.COLUMNS["answer"]
    rows = list(readers.questions(tokenizer, records, 60))
    columns = {name: Ragged.of(row[i] for row in rows) for i, name in enumerate(names)}
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(CONFIG).eval()
    batch = Questions(0, True).batch(columns, np.arange(2))
    alone = 0.0
    for ids, types, (first, last) in rows:
        inputs = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
        out = model(**inputs)
        alone -= out.start_logits[0].log_softmax(-1)[first].item()
        alone -= out.end_logits[0].log_softmax(-1)[last].item()
    assert batch.num_labels == 4
    assert batch.loss_sum(model).item() == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_texts_alike_are_told_from_the_others_of_the_batch(
    tokenizer: Tokenizer, pooling: str
) -> None:
    records = [
        Alike("Alice lives in Paris.", "卡罗尔住在柏林。"),
        Alike("Bob is a cook.", "Alice", "Paris"),
        Alike("卡罗尔住在柏林。", "Alice lives in Paris."),
        Alike("Bob", "Alice"),
    ]
    names = readers.COLUMNS["embed"]
    rows = list(readers.alike(tokenizer, records))
    columns = {name: Ragged.of(row[i] for row in rows) for i, name in enumerate(names)}
    torch.manual_seed(0)
    model = AutoModel.from_config(CONFIG).eval()

    def vector(ids: list[int]) -> torch.Tensor:
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        chosen = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        return chosen / chosen.norm()

    texts = [[list(ids) for ids in row] for row in rows]
    candidates = [row[1] for row in texts] + [texts[1][2]]
    loss = 0.0
    for place, (anchor, positive, _) in enumerate(texts):
        others = [
            other
            for number, other in enumerate(candidates)
            if number == place or other not in (anchor, positive)
        ]
        scores = torch.stack([vector(anchor) @ vector(other) / 0.1 for other in others])
        loss -= scores.log_softmax(-1)[others.index(positive)].item()
    batch = AlikeTexts(0, 0.1, pooling).batch(columns, np.arange(4))
    assert batch.loss_sum(model).item() == pytest.approx(loss, rel=1e-4)


def test_numbers_are_learned_by_their_squared_error(tokenizer: Tokenizer) -> None:
    records = [Rated("Alice", 1.25), Rated("Bob is a cook.", -3.5)]
    rows = list(readers.rated(tokenizer, records))
    columns = {"input_ids": Ragged.of(r[0] for r in rows), "score": Ragged.of(r[1] for r in rows)}

    class Fixed(torch.nn.Module):
        def forward(self, **_: object) -> object:
            return type("Out", (), {"logits": torch.tensor([[1.0], [-1.5]])})

    batch = RatedTexts(0).batch(columns, np.arange(2))
    assert batch.labels.tolist() == [1.25, -3.5] and batch.num_labels == 2
    assert batch.loss_sum(Fixed()).item() == pytest.approx(0.25**2 + 2.0**2)  # type: ignore[arg-type]
