"""Cards: everything a person asks first, and nothing a stranger's words can inject."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmos.library.artifacts import Library
from llmos.library.cards import format_count, render
from llmos.types import NewVersion

TRAINED: dict[str, Any] = {
    "description": "A tiny translator.",
    "limits": "It knows little.",
    "task": "translate",
    "parameters": 4_500_000,
    "context_tokens": 256,
    "license": "apache-2.0",
    "languages": ["en", "zh"],
    "metrics": {
        "validation_loss": 1.23456,
        "perplexity": 3.4369,
        "test": {"bleu_en_zh": 24.5678, "bleu_en_zh_signature": "nrefs:1|tok:zh", "rows": 600},
        "unseen": {"rows": 50, "bleu_en_zh": 7.0, "bleu_en_zh_signature": "nrefs:1|tok:zh"},
    },
    "recipe": {
        "name": "tiny",
        "chat_template": "{{ a }}\n{{ b }}\n",
        "data": {"path": "starter:translation"},
        "translation": {"pairs": [["en", "zh"]]},
        "card": {"description": "A tiny translator."},
    },
    "source": {
        "kind": "trained",
        "data": "starter:translation",
        "base": None,
        "steps": 2700,
        "published_step": 2500,
        "seed": 7,
        "threads": 2,
        "seconds": 12.5,
    },
    "recommended": ["opus-en-zh", "me/mine"],
}
CARD = """\
# tiny:1

A tiny translator.

|  |  |
| --- | --- |
| task | translate |
| architecture | LlamaForCausalLM (llama) |
| parameters | 4.5M |
| size | 1 B |
| dtype | float32 |
| context | 256 tokens |
| languages | en, zh |
| licence | apache-2.0 |
| aliases | @latest |

## Use

```
llmos translate "Hello" --model tiny
```

## Metrics

| split | loss | perplexity | bleu en zh | rows |
| --- | --- | --- | --- | --- |
| validation | 1.235 | 3.437 |  |  |
| test |  |  | 24.57 | 600 |
| unseen |  |  | 7 | 50 |

- bleu en zh signature: `nrefs:1|tok:zh`

## What it cannot do

It knows little.

## For real work

- `llmos pull opus-en-zh`: English to Chinese, quick (77.5M parameters, 310.0 MB)
- `llmos pull me/mine`

## Lineage

|  |  |
| --- | --- |
| kind | trained |
| data | starter:translation |
| inputs | base:3 |
| steps | 2700 |
| seed | 7 |
| seconds | 12.5 |
| published step | 2500 |
| threads | 2 |
| made | 2023-11-14 22:13:20 UTC |
| owner | alice |
| digest | DIGEST |

## Recipe

```yaml
name: tiny
chat_template: |
  {{ a }}
  {{ b }}
data:
  path: starter:translation
translation:
  pairs: [[en, zh]]
```

## Files

| file | size |
| --- | --- |
| config.json | 1 B |
"""


def test_a_card_reads_like_a_page(library: Library, new_version: Callable[..., NewVersion]) -> None:
    new = new_version("tiny", **TRAINED)
    inputs = ("starter:translation", "base:3")
    made = library.add(NewVersion("model", "tiny", new.files, new.manifest, inputs), "alice")
    assert render(made) == CARD.replace("DIGEST", made.digest)
    assert render(library.resolve("tiny")) == render(made)


def test_a_card_of_little_has_no_empty_sections(
    library: Library, new_version: Callable[..., NewVersion]
) -> None:
    card = render(library.add(new_version("a"), "o"))
    titles = [line for line in card.splitlines() if line.startswith("#")]
    assert titles == ["# a:1", "## Use", "## Lineage", "## Files"]
    assert "\n\n\n" not in card
    assert "None" not in card


def test_metrics_by_class_are_columns(
    library: Library, new_version: Callable[..., NewVersion]
) -> None:
    metrics = {"test": {"f1": 0.91239, "f1_by_class": {"good": 1.0, "bad": 0.5}}}
    card = render(library.add(new_version("a", metrics=metrics), "o"))
    assert "| split | f1 | f1 by class: good | f1 by class: bad |" in card
    assert "| test | 0.9124 | 1 | 0.5 |" in card


def test_a_card_says_how_far_trainer_and_engine_were_apart(
    library: Library, new_version: Callable[..., NewVersion]
) -> None:
    parity = {"engine": "native", "greedy_tokens": 64, "largest_difference": 2.5e-7}
    card = render(library.add(new_version("a", parity=parity), "o"))
    section = card.partition("## Trained and served alike\n\n")[2].partition("\n\n## ")[0]
    assert "| engine | native |\n| greedy tokens | 64 |" in section
    assert "| largest difference | 2.5e-07 |" in section


def test_a_recipe_cannot_end_its_block(
    library: Library, new_version: Callable[..., NewVersion]
) -> None:
    recipe = {"chat_template": "a\n```\n# Not a heading\n"}
    card = render(library.add(new_version("a", recipe=recipe), "o"))
    block = card.partition("## Recipe\n\n")[2].partition("\n\n## Files")[0]
    assert block.startswith("````yaml\n")
    assert block.endswith("\n````")


def test_a_card_has_no_html_of_strangers(
    library: Library, new_version: Callable[..., NewVersion]
) -> None:
    evil = "<script>alert(1)</script> | x\n# y"
    card = render(
        library.add(new_version("a", description=evil, license=evil, source={"x": evil}), "o")
    )
    assert "<script>" not in card
    assert "| licence | &lt;script&gt;alert(1)&lt;/script&gt; \\| x # y |" in card


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7"), (1_500, "1.5k"), (4_500_000, "4.5M"), (7_616_000_000, "7.62B")]
)
def test_counts_are_for_people(count: int, text: str) -> None:
    assert format_count(count) == text


def test_a_card_has_the_last_evaluations_under_the_names_that_gates_know(
    library: Library, new_version: Callable[..., NewVersion]
) -> None:
    made = library.add(new_version("tiny", **TRAINED), "alice")
    common = {"dataset": "test", "owner": "alice", "num_rows": 3, "at": 0.0}
    metrics = {"accuracy": 0.50661, "f1_by_class": {"好": 1.0}, "bleu_signature": "tok:zh"}
    found = [{**common, "metrics": {"accuracy": 0.1}}, {**common, "metrics": metrics}]
    found.append({**common, "owner": None, "metrics": {"tokens": 123_456}})
    _, _, shown = render(made, evaluations=found).partition("## Evaluations\n\n")
    when = "1970-01-01 00:00:00 UTC"
    assert shown.startswith(f"""\
| metric |  | rows | by | when |
| --- | --- | --- | --- | --- |
| test/accuracy | 0.5066 | 3 | alice | {when} |
| test/f1_by_class/好 | 1 | 3 | alice | {when} |
| test/tokens | 123456 | 3 |  | {when} |

- test/bleu_signature: `tok:zh`
""")
    assert "Evaluations" not in render(made)
