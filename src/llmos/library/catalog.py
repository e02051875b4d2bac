"""Well-known models on the Hugging Face hub, by task, so that a newcomer need not search.

A fixed table: sizes and licences are those of the hub's repositories when it was written. None of
them brings code of its own, which ``pull`` would refuse.
"""

from __future__ import annotations

from dataclasses import dataclass

_OVERHEAD = 1.2
_WORKING_BYTES = 300_000_000


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model of the hub.

    Attributes:
        task: the manifest's task: chat, generate, translate, seq2seq, classify, entities, embed or
            rerank.
        parameters: how many; ``download_bytes`` is the size of the weights' files.
        languages: ISO codes; "multi" stands for many more.
        gated: the hub asks to accept a licence, then wants HF_TOKEN.
        unconverted: the main branch held no safetensors; ``pull`` then takes the hub's conversion.
        translation_prefix: text put before the source, ``{target_lang}`` filled in, where the model
            translates though its architecture alone does not say so.
    """

    name: str
    repo: str
    task: str
    parameters: int
    download_bytes: int
    license: str
    languages: tuple[str, ...]
    summary: str
    gated: bool = False
    unconverted: bool = False
    translation_prefix: str | None = None

    @property
    def memory_bytes(self) -> int:
        """Memory to expect in use: the weights, a fifth more, and room to work."""
        return int(self.download_bytes * _OVERHEAD) + _WORKING_BYTES

    def fits(self, free_bytes: int) -> bool:
        """Whether the model can be expected to run in ``free_bytes`` of memory."""
        return self.memory_bytes <= free_bytes


# name | repository | task | million parameters | MB | licence | languages | flags | summary
_TABLE = """
qwen2.5-0.5b | Qwen/Qwen2.5-0.5B-Instruct | chat | 494 | 988 | apache-2.0 | en zh multi |  | Small and quick; a first real chat model
qwen2.5-1.5b | Qwen/Qwen2.5-1.5B-Instruct | chat | 1544 | 3087 | apache-2.0 | en zh multi |  | A good balance of size and sense
qwen2.5-3b | Qwen/Qwen2.5-3B-Instruct | chat | 3086 | 6172 | qwen-research | en zh multi |  | Stronger; licensed for research only
qwen2.5-7b | Qwen/Qwen2.5-7B-Instruct | chat | 7616 | 15231 | apache-2.0 | en zh multi |  | A capable generalist
qwen2.5-14b | Qwen/Qwen2.5-14B-Instruct | chat | 14770 | 29540 | apache-2.0 | en zh multi |  | A strong generalist
qwen2.5-coder-0.5b | Qwen/Qwen2.5-Coder-0.5B-Instruct | chat | 494 | 988 | apache-2.0 | en zh |  | Code, in very little memory
qwen2.5-coder-1.5b | Qwen/Qwen2.5-Coder-1.5B-Instruct | chat | 1544 | 3087 | apache-2.0 | en zh |  | Writes and explains code
qwen2.5-coder-7b | Qwen/Qwen2.5-Coder-7B-Instruct | chat | 7616 | 15231 | apache-2.0 | en zh |  | Writes and reviews code well
qwen3-0.6b | Qwen/Qwen3-0.6B | chat | 752 | 1503 | apache-2.0 | en zh multi |  | Thinks before it answers, if asked
qwen3-1.7b | Qwen/Qwen3-1.7B | chat | 2032 | 4063 | apache-2.0 | en zh multi |  | Thinks before it answers, if asked
qwen3-4b | Qwen/Qwen3-4B | chat | 4022 | 8045 | apache-2.0 | en zh multi |  | Thinks first; strong for its size
qwen3-8b | Qwen/Qwen3-8B | chat | 8191 | 16381 | apache-2.0 | en zh multi |  | Thinks first; a strong generalist
qwen3-14b | Qwen/Qwen3-14B | chat | 14768 | 29537 | apache-2.0 | en zh multi |  | Thinks first; for one large GPU
smollm2-135m | HuggingFaceTB/SmolLM2-135M-Instruct | chat | 134.5 | 269 | apache-2.0 | en |  | The smallest that converses
smollm2-360m | HuggingFaceTB/SmolLM2-360M-Instruct | chat | 361.8 | 724 | apache-2.0 | en |  | Tiny and fluent in English
smollm2-1.7b | HuggingFaceTB/SmolLM2-1.7B-Instruct | chat | 1711 | 3423 | apache-2.0 | en |  | English chat on a laptop
smollm3-3b | HuggingFaceTB/SmolLM3-3B | chat | 3075 | 6150 | apache-2.0 | en fr es de it pt |  | Six languages, long contexts
tinyllama-1.1b | TinyLlama/TinyLlama-1.1B-Chat-v1.0 | chat | 1100 | 2200 | apache-2.0 | en |  | A small, widely tested Llama
llama3.2-1b | meta-llama/Llama-3.2-1B-Instruct | chat | 1236 | 2472 | llama3.2 | en multi | gated | Meta's smallest
llama3.2-3b | meta-llama/Llama-3.2-3B-Instruct | chat | 3213 | 6426 | llama3.2 | en multi | gated | Meta's small generalist
llama3.1-8b | meta-llama/Llama-3.1-8B-Instruct | chat | 8030 | 16061 | llama3.1 | en multi | gated | A widely used generalist
gemma2-2b | google/gemma-2-2b-it | chat | 2614 | 5229 | gemma | en | gated | Google's small chat model
gemma2-9b | google/gemma-2-9b-it | chat | 9242 | 18484 | gemma | en | gated | Google's mid-size chat model
gemma3-1b | google/gemma-3-1b-it | chat | 1000 | 2000 | gemma | en multi | gated | Text only, long contexts
mistral-7b | mistralai/Mistral-7B-Instruct-v0.3 | chat | 7248 | 14496 | apache-2.0 | en | gated | A classic generalist
phi4-14b | microsoft/phi-4 | chat | 14660 | 29319 | mit | en |  | Strong at reasoning and mathematics
gpt2 | openai-community/gpt2 | generate | 124.4 | 548 | mit | en |  | The classic; continues English text
distilgpt2 | distilbert/distilgpt2 | generate | 81.9 | 353 | apache-2.0 | en |  | A lighter GPT-2, for trying things out
pythia-160m | EleutherAI/pythia-160m | generate | 162.3 | 375 | apache-2.0 | en |  | For research into how models learn
qwen2.5-0.5b-base | Qwen/Qwen2.5-0.5B | generate | 494 | 988 | apache-2.0 | en zh multi |  | A base to fine-tune
smollm2-135m-base | HuggingFaceTB/SmolLM2-135M | generate | 134.5 | 269 | apache-2.0 | en |  | The quickest base to fine-tune
phi2-2.7b | microsoft/phi-2 | generate | 2780 | 5559 | mit | en |  | A strong small base for English and code
opus-en-zh | Helsinki-NLP/opus-mt-en-zh | translate | 77.5 | 310 | apache-2.0 | en zh | unconverted >>cmn_Hans<< | English to Chinese, quick
opus-zh-en | Helsinki-NLP/opus-mt-zh-en | translate | 77.5 | 310 | cc-by-4.0 | zh en | unconverted | Chinese to English, quick
madlad400-3b | google/madlad400-3b-mt | translate | 2943 | 11761 | apache-2.0 | en zh multi | <2{target_lang}> | Among 400 languages
t5-small | google-t5/t5-small | seq2seq | 60.5 | 242 | apache-2.0 | en fr ro de |  | Short translations and summaries
t5-base | google-t5/t5-base | seq2seq | 222.9 | 892 | apache-2.0 | en fr ro de |  | The same, larger
flan-t5-small | google/flan-t5-small | seq2seq | 77 | 308 | apache-2.0 | en multi |  | Follows short instructions
flan-t5-base | google/flan-t5-base | seq2seq | 247.6 | 990 | apache-2.0 | en multi |  | Follows instructions better
sentiment-en | distilbert/distilbert-base-uncased-finetuned-sst-2-english | classify | 67 | 268 | apache-2.0 | en |  | Positive or negative
sentiment-multi | lxyuan/distilbert-base-multilingual-cased-sentiments-student | classify | 135.3 | 541 | apache-2.0 | en zh multi |  | Twelve languages, Chinese among them
sentiment-stars | nlptown/bert-base-multilingual-uncased-sentiment | classify | 167.4 | 669 | mit | en nl de fr it es |  | One to five stars
sentiment-zh | IDEA-CCNL/Erlangshen-Roberta-110M-Sentiment | classify | 102.3 | 409 | apache-2.0 | zh | unconverted | Chinese reviews
ner-en | dslim/bert-base-NER | entities | 107.7 | 433 | mit | en |  | People, places, organisations and more
ner-en-small | dslim/distilbert-NER | entities | 65.2 | 261 | apache-2.0 | en |  | The same, smaller
ner-en-large | dslim/bert-large-NER | entities | 333.6 | 1334 | mit | en |  | The same, larger and more exact
ner-multi | Davlan/bert-base-multilingual-cased-ner-hrl | entities | 177.3 | 709 | afl-3.0 | en zh multi | unconverted | Ten languages, Chinese among them
ner-zh | ckiplab/bert-base-chinese-ner | entities | 101.7 | 407 | gpl-3.0 | zh | unconverted | Traditional Chinese, eighteen kinds
minilm-l6 | sentence-transformers/all-MiniLM-L6-v2 | embed | 22.7 | 91 | apache-2.0 | en |  | Small and quick; sentences and paragraphs
e5-small-multi | intfloat/multilingual-e5-small | embed | 117.7 | 471 | mit | en zh multi |  | A hundred languages; begin texts with "query: " or "passage: "
qwen3-embedding-0.6b | Qwen/Qwen3-Embedding-0.6B | embed | 595.8 | 1192 | apache-2.0 | en zh multi |  | Long texts, any number of dimensions; has a prompt for queries
minilm-l6-reranker | cross-encoder/ms-marco-MiniLM-L6-v2 | rerank | 22.7 | 91 | apache-2.0 | en |  | Small and quick; English passages
bert-base | google-bert/bert-base-uncased | fill_mask | 110.1 | 440 | apache-2.0 | en |  | The classic encoder, to train further
bert-base-zh | google-bert/bert-base-chinese | fill_mask | 102.9 | 412 | apache-2.0 | zh |  | The same for Chinese
squad-en-small | distilbert/distilbert-base-cased-distilled-squad | answer | 65.2 | 261 | apache-2.0 | en |  | Finds answers in English texts
squad2-en | deepset/roberta-base-squad2 | answer | 124.1 | 496 | cc-by-4.0 | en |  | The same, and tells where there is none
bge-reranker-m3 | BAAI/bge-reranker-v2-m3 | rerank | 567.8 | 2271 | apache-2.0 | en zh multi |  | A hundred languages, long passages
"""  # noqa: E501


def _parse(line: str) -> CatalogEntry:
    name, repo, task, millions, megabytes, license, languages, flags, summary = (
        cell.strip() for cell in line.split("|")
    )
    prefix = next((flag for flag in flags.split() if flag.startswith((">>", "<2"))), None)
    return CatalogEntry(
        name=name,
        repo=repo,
        task=task,
        parameters=round(float(millions) * 1e6),
        download_bytes=int(megabytes) * 10**6,
        license=license,
        languages=tuple(languages.split()),
        summary=summary,
        gated="gated" in flags.split(),
        unconverted="unconverted" in flags.split(),
        translation_prefix=None if prefix is None else f"{prefix} ",
    )


CATALOG: tuple[CatalogEntry, ...] = tuple(map(_parse, _TABLE.strip().splitlines()))


def find(name: str) -> CatalogEntry | None:
    """Return the entry of that short name or hub repository, in any case; None without one."""
    folded = name.lower()
    return next(
        (entry for entry in CATALOG if folded in {entry.name.lower(), entry.repo.lower()}), None
    )
