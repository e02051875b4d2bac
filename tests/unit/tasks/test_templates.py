from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llmos.errors import InvalidRequestError, UnsupportedTaskError
from llmos.tasks.template_sandbox import TemplateError, render
from llmos.tasks.templates import Templates

CHATML = (
    "{% for message in messages %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}\n"
    "{{ '<|im_start|>assistant\\n' }}\n"
    "{% endif %}"
)
REAL = [
    CHATML,
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} "
    "[/INST]{% elif m.role == 'system' %}{{ raise_exception('no system turns') }}{% else %}"
    "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "{%- set ns = namespace(first=true) %}{% for m in messages %}\n"
    "  {%- if loop.first and m.role == 'system' %}{% set ns.first = false %}{% continue %}"
    "{%- endif %}\n{{ m | tojson }}|{{ ns.first }}\n{% endfor %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content[::-1] }}{% endif %}{% endfor %}",
    "{{ messages | map(attribute='content') | join(' / ') }}"
    "{{ dict(a=1).items() | list }}{% if tools %}T{% endif %}",
    "  {% if true %}\n  kept\n  {% endif %}\n{{ messages[0].content.split(' ')[0].upper() }}",
]
HOSTILE = [
    "{% for i in range(10**12) %}x{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}"
    "{% for i in range(99999) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ namespace(__class__=1) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ 'a'.ljust(10**10) }}",
    "{% if %}",
    "{{ undefined_function() }}",
    "{{ raise_exception('no') }}",
]
TURNS: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi <b>你好</b> "},
        {"role": "assistant", "content": "é"},
    ]
}


@pytest.fixture
async def templates() -> AsyncIterator[Templates]:
    made = Templates()
    await made.start()
    yield made
    await made.close()


@pytest.mark.parametrize("template", REAL)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
async def test_renders_as_transformers_does(
    templates: Templates, template: str, add_generation_prompt: bool
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    turns = TURNS["messages"]
    plain = turns[1:] if "no system turns" in template else turns
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    expected, _ = render_jinja_template(
        conversations=[plain],
        chat_template=template,
        add_generation_prompt=add_generation_prompt,
        **special,
    )
    ours = await templates.render(
        template, {"messages": plain, **special}, add_generation_prompt=add_generation_prompt
    )
    assert ours == expected[0]


@pytest.mark.parametrize("template", HOSTILE)
async def test_a_hostile_template_is_refused_in_time(templates: Templates, template: str) -> None:
    with pytest.raises(InvalidRequestError, match="chat template"):
        await templates.render(template, TURNS)
    assert await templates.render("fine", TURNS) == "fine"


@pytest.mark.parametrize("template", ["{{ '{0.__class__}'.format(1) }}", "{{ ().__class__ }}"])
async def test_attributes_of_python_are_not_to_be_had(templates: Templates, template: str) -> None:
    try:
        assert "class" not in await templates.render(template, TURNS)
    except InvalidRequestError as error:
        assert "unsafe" in error.message


async def test_output_is_limited() -> None:
    with pytest.raises(TemplateError, match="more than 100 characters"):
        render("{% for i in range(1000) %}xxxxxxxxxx{% endfor %}", {}, 100)


async def test_the_helper_has_no_secrets(
    monkeypatch: pytest.MonkeyPatch, templates: Templates
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    fresh = Templates()
    await fresh.start()
    environ = Path(f"/proc/{fresh._sandbox.pid}/environ")
    assert b"secret" not in environ.read_bytes()
    await fresh.close()


async def test_no_template_points_to_completions(templates: Templates) -> None:
    with pytest.raises(UnsupportedTaskError, match="completions"):
        await templates.render(None, TURNS)


async def test_a_killed_helper_is_replaced(templates: Templates) -> None:
    assert templates._sandbox.pid is not None
    os.kill(templates._sandbox.pid, 9)
    with pytest.raises(InvalidRequestError, match="broke the process"):
        await templates.render("x", TURNS)
    assert await templates.render("x", TURNS) == "x"


async def test_a_cancelled_render_leaves_no_answer_behind(templates: Templates) -> None:
    slow: asyncio.Task[Any] = asyncio.create_task(templates.render(HOSTILE[3], TURNS))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert await templates.render("next", TURNS) == "next"
