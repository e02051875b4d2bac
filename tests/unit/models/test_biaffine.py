from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional
from transformers import AutoModel

from llmos.models.biaffine import IGNORE, BiaffineConfig, BiaffineForDependencyParsing
from llmos.models.registry import register
from llmos.models.words import UPOS

LABELS = ["root", "nsubj", "obj", "punct"]
BYTES = [-1, -1, -1, *range(256)]
CLS, SEP = 1, 2
SENTENCES = ("Li sings .", "小猫 在 睡觉 。", "x", "a long row of very many small words")


def made(**values: object) -> BiaffineForDependencyParsing:
    register()
    torch.manual_seed(0)
    config = BiaffineConfig(
        token_bytes=BYTES,
        num_buckets=512,
        embedding_size=8,
        hidden_size=6,
        num_layers=2,
        tag_size=4,
        arc_size=6,
        relation_size=5,
        id2label=dict(enumerate(LABELS)),
        **values,
    )
    model = AutoModel.from_config(config).eval()
    for weights in (model.arcs, model.relations, model.root):  # they begin at zero
        torch.nn.init.normal_(weights)
    return model


def padded(*texts: str) -> dict[str, torch.Tensor]:
    rows = [[CLS, *(byte + 3 for byte in text.encode()), SEP] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def gold(*texts: str) -> dict[str, torch.Tensor]:
    """Return chains: each word hangs below the one before it."""
    counts = [len(text.split(" ")) for text in texts]
    longest = max(counts)

    def rows(of_place: object) -> torch.Tensor:
        return torch.tensor(
            [[of_place(at) for at in range(n)] + [IGNORE] * (longest - n) for n in counts]
        )

    return {
        "heads": rows(lambda at: at),
        "relations": rows(lambda at: at % len(LABELS)),
        "tags": rows(lambda at: at % len(UPOS)),
    }


@torch.no_grad()
def test_padding_and_batch_mates_change_nothing() -> None:
    model = made()
    together = model(**padded(*SENTENCES))
    loss = torch.zeros(())
    for row, text in enumerate(SENTENCES):
        count = len(text.split(" "))
        alone = model(input_ids=padded(text)["input_ids"])
        assert together.lengths[row] == alone.lengths[0] == count
        arcs = together.arcs[row, :count, : count + 1]
        assert torch.allclose(arcs, alone.arcs[0], atol=1e-5)
        assert torch.equal(together.heads[row, :count], alone.heads[0])
        for name in ("relations", "tags"):
            assert torch.allclose(together[name][row, :count], alone[name][0], atol=1e-5)
        loss += model.parse_loss(**padded(text), **gold(text))
    assert torch.allclose(model.parse_loss(**padded(*SENTENCES), **gold(*SENTENCES)), loss)


@torch.no_grad()
def test_the_loss_is_that_of_heads_relations_and_parts_of_speech() -> None:
    model, text = made(), SENTENCES[0]
    out, told = model(**padded(text)), gold(text)
    heads = functional.nll_loss(out.arcs[0], told["heads"][0], reduction="sum")
    tags = functional.cross_entropy(out.tags[0], told["tags"][0], reduction="sum")
    read = model._read(input_ids=padded(text)["input_ids"], mask=None)
    scores = model._relations(read, told["heads"])[0]
    relations = functional.cross_entropy(scores, told["relations"][0], reduction="sum")
    found = model.parse_loss(**padded(text), **told)
    assert torch.allclose(found, heads + relations + tags, atol=1e-5)
    told["tags"] = torch.full_like(told["tags"], IGNORE)
    assert torch.allclose(model.parse_loss(**padded(text), **told), heads + relations, atol=1e-5)


@torch.no_grad()
def test_relations_are_scored_as_the_paper_has_it() -> None:
    model, text = made(), SENTENCES[0]
    read = model._read(padded(text)["input_ids"], None)
    heads = torch.tensor([[2, 0, 1]])
    told = model._relations(read, heads)[0]
    size = model.config.relation_size
    head = functional.leaky_relu(model.relation_head(read.hidden[0]), 0.1)
    dependent = functional.leaky_relu(model.relation_dependent(read.hidden[0]), 0.1)
    for word, of in enumerate(heads[0].tolist()):
        for label, weights in enumerate(model.relations):
            score = dependent[word + 1] @ weights[:size, :size] @ head[of]
            score += weights[size, :size] @ head[of] + dependent[word + 1] @ weights[:size, size]
            assert torch.allclose(told[word, label], score + weights[size, size], atol=1e-5)


@torch.no_grad()
def test_no_word_is_its_own_head_and_one_is_below_the_root() -> None:
    out = made()(**padded(*SENTENCES))
    for heads, count in zip(out.heads.tolist(), out.lengths.tolist(), strict=True):
        assert heads[:count].count(0) == 1
        assert all(head != number for number, head in enumerate(heads[:count], 1))
        assert all(0 <= head <= count for head in heads[:count])


def test_it_learns_a_sentence_s_tree() -> None:
    model = made(dropout=0.1).train()
    inputs, told = padded(SENTENCES[0]), gold(SENTENCES[0])
    told["heads"] = torch.tensor([[2, 0, 2]])
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        model.parse_loss(**inputs, **told).backward()
        optimizer.step()
    out = model.eval()(**inputs)
    assert out.heads.tolist() == [[2, 0, 2]]
    assert out.relations.argmax(-1).tolist() == told["relations"].tolist()


@torch.no_grad()
def test_a_text_without_words_has_no_tree() -> None:
    out = made()(input_ids=torch.tensor([[CLS, SEP]]))
    assert (out.heads.shape, out.lengths.tolist()) == ((1, 0), [0])


def test_it_is_saved_and_loaded_by_the_auto_class(tmp_path: Path) -> None:
    model = made()
    model.save_pretrained(tmp_path)
    fresh = AutoModel.from_pretrained(tmp_path)
    assert isinstance(fresh, BiaffineForDependencyParsing)
    for name, weights in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], weights), name


@pytest.mark.parametrize("values", [{"dictionary": "webster"}, {"num_layers": 1}])
def test_sizes_that_are_none_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(StrictDataclassClassValidationError):
        BiaffineConfig(**values)
