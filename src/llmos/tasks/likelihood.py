"""How much likelier a text makes what a language model might write behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import aclosing

from llmos.errors import ContextLengthError, EngineError
from llmos.tasks.chat import chat_prompt
from llmos.tasks.context import Lease, Served, TaskContext
from llmos.tasks.pipeline import run_all
from llmos.tasks.rows import Terms
from llmos.types import GenerateWork, Message, SamplingParams, ToolUse

CHINESE = re.compile("[\u3400-\u9fff]")
QUESTION = "Which of these fits best: {}? Answer with nothing but that."
CHINESE_QUESTION = "以下哪一个最合适：{}？只回答其中一个。"
"""That a chat model is asked, behind the text."""

Ids = tuple[int, ...]


async def gains(
    context: TaskContext, served: Served, text: str, answers: Sequence[str], terms: Terms
) -> list[float]:
    """Return ``log p(answer | text) - log p(answer)`` of each answer, in nats (pointwise mutual
    information: Holtzman et al., 2021, arXiv:2104.08315).

    A chat model is asked which of the answers fits; another goes on after the text, in a new line.

    Raises:
        ContextLengthError: text and answer are longer than the model reads.
    """
    prompts = [await _prompt(context, served, given, answers, terms) for given in (text, "")]
    endings = [await served.tokenizer.ids(answer, special_tokens=False) for answer in answers]
    longest = len(prompts[0]) + max(map(len, endings))
    if longest > served.context_tokens:
        raise ContextLengthError(
            f"text and labels have {longest} tokens, but {served.ref} reads at most "
            f"{served.context_tokens}: shorten the text.",
            param="text",
        )
    works = [_work(context, prompt, ending, terms) for prompt in prompts for ending in endings]
    async with context.residency.lease(
        served.spec, terms.priority, terms.deadline_s, tenant=terms.tenant
    ) as lease:
        logprobs = await run_all(works, lambda work: _logprobs(lease, work))
    if any(
        len(told) < len(work.prompt_ids) - 1 for told, work in zip(logprobs, works, strict=True)
    ):
        raise EngineError("The engine did not tell how likely the labels are.")
    found = [
        sum(told[len(told) - len(ending) :])
        for told, ending in zip(logprobs, [*endings, *endings], strict=True)
    ]
    with_text, without = found[: len(endings)], found[len(endings) :]
    return [one - other for one, other in zip(with_text, without, strict=True)]


async def _prompt(
    context: TaskContext, served: Served, text: str, answers: Sequence[str], terms: Terms
) -> Ids:
    if served.manifest.chat_template is None:
        return await served.tokenizer.ids(f"{text}\n")
    is_chinese = CHINESE.search("".join(answers)) is not None
    question = CHINESE_QUESTION if is_chinese else QUESTION
    asked = question.format(("、" if is_chinese else ", ").join(answers))
    said = Message("user", f"{text}\n\n{asked}" if text else asked)
    prompt = await chat_prompt(context, served, [said], ToolUse(), {}, owner=terms.tenant)
    return await prompt.ids(served.tokenizer)


def _work(context: TaskContext, prompt: Ids, ending: Ids, terms: Terms) -> GenerateWork:
    return GenerateWork(
        prompt_ids=(*prompt, *ending),
        sampling=SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True),
        priority=terms.priority,
        tenant=terms.tenant,
        cache_salt=context.cache_salt(terms.tenant),
        deadline_s=terms.deadline_s,
        prompt_logprobs=0,
        is_whole=True,
    )


async def _logprobs(lease: Lease, work: GenerateWork) -> list[float]:
    """Return the log-probability of each token of a prompt but the first."""
    found: list[float] = []
    async with aclosing(lease.generate(work)) as outs:
        async for out in outs:
            found += [piece.logprob for piece in out.prompt if piece.logprob is not None]
    return found
