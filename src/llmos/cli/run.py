"""`llmos run`: one answer to one prompt, or an interactive chat in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, ModelArgument, ServerOption
from llmos.cli.output import note
from llmos.errors import (
    InvalidRequestError,
    LlmosError,
    ModelNotFoundError,
    PermissionDeniedError,
    UnsupportedTaskError,
)

if TYPE_CHECKING:
    from llmos.sdk.client import Client

BYE, CLEAR, HELP = "/bye", "/clear", "/help"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("run", rich_help_panel="Use")(run)


def run(
    model: ModelArgument,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="What to ask; left out, a chat starts."),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="System message that comes first.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Longest answer, in tokens.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="0 picks the likeliest token every time.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Pick among tokens of this total probability.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Pick among this many likeliest tokens.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="The same seed gives the same answer.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="End before this text (repeatable).")
    ] = None,
    think: Annotated[
        bool | None,
        typer.Option("--think/--no-think", help="Whether to think first, for models that can."),
    ] = None,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Ask a model; the answer streams. Without a prompt, chat with it (/bye leaves).

    A model without a chat template continues the prompt instead of answering it.

    Examples:
      llmos run starter-chat "Hello, who are you?"
      llmos run starter-chat
      llmos run my-model "ROMEO:" --temperature 0.8 --seed 1
      echo "Where is the station?" | llmos run auto
    """
    sampling = _given(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=list(stop) if stop else None,
        chat_template_kwargs=None if think is None else {"enable_thinking": think},
    )
    prompt = _piped() if prompt is None else prompt
    with open_client(server, home) as client:
        talk = Conversation(client, model, system, sampling)
        if prompt is None:
            _chat(talk)
        else:
            talk.say(prompt)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _piped() -> str | None:
    """Return what is piped in; None where a person sits at the keyboard."""
    if sys.stdin.isatty():
        return None
    text = sys.stdin.read().strip("\n")
    if not text:
        raise InvalidRequestError("the prompt is empty: pass one as an argument or pipe it in")
    return text


class Conversation:
    """The turns so far with one model; prints each answer as it comes."""

    def __init__(
        self, client: Client, model: str, system: str | None, sampling: dict[str, Any]
    ) -> None:
        self.model = model
        self._client = client
        self._sampling = sampling
        self._has_template = _is_chat(client, model)
        if system and not self._has_template:
            raise InvalidRequestError(f"{model} has no chat template: it takes no system message")
        self._system = [{"role": "system", "content": system}] if system else []
        self._turns: list[dict[str, str]] = []

    def clear(self) -> None:
        """Forget every turn; the system message stays."""
        self._turns = []

    def say(self, prompt: str) -> None:
        """Send one turn, print the answer as it streams, and remember both."""
        if not self._has_template:
            self._print(self._ask(prompt), before=prompt)
            return
        turns = [*self._turns, {"role": "user", "content": prompt}]
        answer = self._print(self._ask([*self._system, *turns]))
        self._turns = [*turns, {"role": "assistant", "content": answer}]

    def _ask(self, prompt: str | list[dict[str, str]]) -> Iterator[dict[str, Any]]:
        """Yield the answer's pieces; a key that may not ask for haste asks without it."""
        try:
            yield from self._stream(prompt, priority="interactive")
        except PermissionDeniedError as error:
            if error.param != "priority":
                raise
            yield from self._stream(prompt)

    def _stream(
        self, prompt: str | list[dict[str, str]], **options: Any
    ) -> Iterator[dict[str, Any]]:
        options |= self._sampling
        if isinstance(prompt, str):
            return self._client.generate(self.model, prompt, stream=True, **options)
        return self._client.chat(self.model, prompt, stream=True, **options)

    def _print(self, chunks: Iterator[dict[str, Any]], before: str = "") -> str:
        """Print an answer as it comes and return it; thoughts are for people alone, and dim."""
        pieces: list[str] = []
        shows_thoughts, is_thinking = sys.stdout.isatty(), False
        for chunk in chunks:
            if shows_thoughts and (thought := chunk.get("reasoning")):
                sys.stdout.write(thought if is_thinking else DIM + thought)
                is_thinking = True
            if is_thinking and chunk["text"]:
                sys.stdout.write(f"{PLAIN}\n\n")
                is_thinking = False
            sys.stdout.write(chunk["text"] if pieces else before + chunk["text"])
            sys.stdout.flush()
            pieces.append(chunk["text"])
        sys.stdout.write(f"{PLAIN}\n" if is_thinking else "\n")
        return "".join(pieces)


def _is_chat(client: Client, name: str) -> bool:
    """Whether what answers to a name takes messages: a model with a template, or the models behind
    a route, a task or ``auto``."""
    try:
        return client.model(name)["manifest"].get("chat_template") is not None
    except ModelNotFoundError as error:
        try:
            client.explain_route("", name)
        except UnsupportedTaskError:
            return False
        except ModelNotFoundError:
            raise error from None
        return True


def _chat(talk: Conversation) -> None:
    import readline  # noqa: F401  line editing and history for input()

    note(f"Chatting with {talk.model}: {CLEAR} forgets the conversation, {BYE} leaves.")
    while True:
        try:
            line = input(">>> ").strip()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return
        if line == BYE:
            return
        if line == CLEAR:
            talk.clear()
            note("The conversation is forgotten.")
        elif line == HELP:
            note(f"{CLEAR} forgets the conversation, {BYE} leaves, Ctrl-C stops an answer.")
        elif line:
            _turn(talk, line)


def _turn(talk: Conversation, line: str) -> None:
    """One turn; Ctrl-C or an error ends the turn, not the chat."""
    try:
        talk.say(line)
    except KeyboardInterrupt:
        sys.stdout.write("\n")
        note("(stopped)")
    except LlmosError as error:
        typer.secho(f"error: {error.message}", err=True, fg="red")
