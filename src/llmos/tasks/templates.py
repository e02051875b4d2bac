"""Chat templates, rendered in a helper process that is killed when one takes too long.

`Templates` is the server's side, ``python -m llmos.tasks.templates FD`` the helper. A template is
untrusted code: besides what ``sandbox`` does about that, the helper has a sandboxed Jinja.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from llmos.errors import InvalidRequestError, UnsupportedTaskError
from llmos.tasks.sandbox import Sandbox, SandboxBrokenError, SandboxTimeoutError, serve

RENDER_TIMEOUT_S = 1.0
MAX_OUTPUT_CHARS = 4 * 2**20
HELPER_MEMORY_BYTES = 2**30


class Render(msgspec.Struct, frozen=True, tag="render"):
    template: str
    variables: dict[str, Any]


class Rendered(msgspec.Struct, frozen=True, tag="rendered"):
    text: str


class RenderFailed(msgspec.Struct, frozen=True, tag="render_failed"):
    message: str


class Templates:
    """Renders templates, one at a time, in the helper process.

    The helper starts at the first render (or at ``start``) and again after it had to be killed.
    """

    def __init__(self, timeout_s: float = RENDER_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._sandbox = Sandbox("llmos.tasks.templates", Rendered | RenderFailed)

    async def start(self) -> None:
        """Start the helper now, so that the first chat does not wait for it."""
        await self._sandbox.start()

    async def close(self) -> None:
        """End the helper."""
        await self._sandbox.close()

    async def render(
        self,
        template: str | None,
        variables: Mapping[str, Any],
        *,
        add_generation_prompt: bool = True,
        owner: str = "",
    ) -> str:
        """Return the prompt text of a conversation.

        Args:
            template: the model's Jinja text, None where it has none.
            variables: as the template knows them: messages, tools, bos_token, eos_token, …
            owner: who asks; it has its turns, and a template that took too long for it is refused
                to it alone for a while, as what it said may have been the cause.

        Raises:
            UnsupportedTaskError: the model has no template.
            OverloadedError: too many others wait for theirs.
            InvalidRequestError: the template refused the messages, failed, ran too long or wrote
                too much; the message says which.
        """
        if template is None:
            raise UnsupportedTaskError(
                "This model has no chat template: use completions (/v1/completions, "
                "Model.generate) instead of chat.",
                param="model",
            )
        defaults = {"tools": None, "documents": None}
        variables = {**defaults, **variables, "add_generation_prompt": add_generation_prompt}
        try:
            answer = await self._sandbox.ask(
                Render(template, variables),
                self._timeout_s,
                owner=owner,
                key=hashlib.sha256(f"{owner}\0{template}".encode("utf-8", "replace")).digest(),
            )
        except SandboxTimeoutError:
            reason = f"it did not finish within {self._timeout_s:g} s."
        except SandboxBrokenError:
            reason = "it broke the process that rendered it."
        else:
            if isinstance(answer, Rendered):
                return answer.text
            reason = answer.message
        raise InvalidRequestError(f"The model's chat template: {reason}", param="messages")


def main(fd: int) -> None:
    """Serve renders on the socket ``fd`` until it closes."""
    from llmos.tasks.template_sandbox import TemplateError, render

    def answer(question: Render) -> Rendered | RenderFailed:
        try:
            return Rendered(render(question.template, question.variables, MAX_OUTPUT_CHARS))
        except TemplateError as error:
            return RenderFailed(str(error))

    serve(fd, Render, answer, HELPER_MEMORY_BYTES)


if __name__ == "__main__":
    main(int(sys.argv[1]))
