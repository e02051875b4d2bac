"""The training loop. N steps equal k steps, a kill, a resume and N - k more, bit for bit on CPU."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.errors import CancelledError, LlmosError
from llmos.training import checkpoint, robust
from llmos.training.averaging import averaged, copied_weights, follow
from llmos.training.checkpoint import Progress
from llmos.training.checkpoint_writer import CheckpointWriter
from llmos.training.distribution import Team, alone
from llmos.training.micro_batches import MicroBatches, halved, is_out_of_memory
from llmos.training.mixture import named
from llmos.training.objectives import Batch, Objective, Scheduled, Surveyed
from llmos.training.offload import offload
from llmos.training.optimizers import build_optimizer, set_learning_rate
from llmos.training.privacy import Privacy
from llmos.training.recipe import Recipe
from llmos.training.sampling import Sampler
from llmos.training.schedules import learning_rate, num_no_better, validation_losses
from llmos.training.validation import evaluation_batches, means
from llmos.training.watching import Watch

REPORTS = 200
MAX_STEPS_UNREPORTED = 50
SHOWN_ROWS = 8


class DivergedError(LlmosError):
    """The loss is no longer a number: try a lower optimizer.learning_rate."""

    status = 400
    code = "training_diverged"


class Context(Protocol):
    """What of the job's context training uses."""

    def progress(self, step: int, total: int, message: str = "") -> None: ...

    def metric(self, step: int, **values: float) -> None: ...

    def log(self, line: str) -> None: ...

    def raise_if_cancelled(self) -> None: ...

    def wait_while_paused(self) -> None: ...

    def on_hold(self, offload: Callable[[], Callable[[], None]]) -> None: ...

    @property
    def is_leaving(self) -> bool: ...

    @property
    def still_s(self) -> float: ...


@dataclass(slots=True)
class Trainer:
    """Trains ``model`` in place on the columns an objective reads.

    Args:
        directory: where checkpoints are kept between attempts.
        micro_batches: how batches are cut, where they are.
        team: the processes that train together; each has a trainer of its own.
        clock: seconds, for tokens/s and the time taken, those left out in which the job was held.
        watch: tells what it takes beside the losses.
        privacy: what a private training goes by.
        sampler: which rows a step takes; the objective's own unless given.
    """

    recipe: Recipe
    model: PreTrainedModel
    objective: Objective
    train: Columns
    validation: Columns
    directory: Path
    context: Context
    clock: Callable[[], float] = time.perf_counter
    team: Team = alone
    micro_batches: MicroBatches | None = None
    watch: Watch | None = None
    privacy: Privacy | None = None
    sampler: Sampler | None = None
    progress: Progress = field(default_factory=Progress)
    _writer: CheckpointWriter = field(init=False)
    _sampler: Sampler = field(init=False)
    _losses: list[Tensor] = field(default_factory=list)
    _gradient_norms: list[Tensor] = field(default_factory=list)
    _tokens: int = 0
    _last: float = 0.0

    def __post_init__(self) -> None:
        self._writer = CheckpointWriter(
            self.directory, writes=self.team.is_first, keep_at=self.recipe.keep_at
        )

    def run(self) -> Progress:
        """Train to the last step, going on from the newest checkpoint where there is one.

        The model is left with the weights of the last step, or with their moving average where the
        recipe wants one.

        Raises:
            DivergedError: a loss was not finite; the message names the step.
            CancelledError: the job was cancelled, or preempted: then a checkpoint was written.
            HalvedError: memory ran out for this process of several: all are to begin again.
            OutOfMemoryError: memory ran out, and nothing smaller could be tried.
        """
        recipe, team = self.recipe, self.team
        team.place(self.model)
        optimizer = build_optimizer(self.model, recipe.optimizer)
        if team.size == 1:
            self.context.on_hold(lambda: offload(self.model, optimizer, self._kept_weights()))
        resumed = checkpoint.load_latest(self.directory, self.model, optimizer, self.context.log)
        if resumed is not None:
            self.progress = resumed
            self.context.log(f"going on from the checkpoint of step {resumed.step}")
        elif recipe.ema is not None:
            self.progress.average = copied_weights(self.model)
        own = self.objective.sampler(self.train, recipe.batch_size, recipe.seed)
        self._sampler = self.privacy or self.sampler or own
        validation_rows = self._validation_batches(recipe.eval_batches)
        self.model.train()
        self._last = self._now()
        try:
            while not self._is_over():
                step = self.progress.step
                set_learning_rate(optimizer, self._rate(step))
                team.begin_step(recipe.seed, step)
                self._step(optimizer, self._rows_of(step))
                self.progress.step = step + 1
                self._keep_up(optimizer, validation_rows)
        finally:
            self._writer.settle()
        if self.progress.average is not None:
            checkpoint.set_weights(self.model, self.progress.average)
        return self.progress

    def _rows_of(self, step: int) -> list[IntArray]:
        """The rows of a step's batches, of all processes."""
        accumulate = self.recipe.accumulate
        numbers = range(step * accumulate, (step + 1) * accumulate)
        return [self._sampler.rows(number) for number in numbers]

    def _step(self, optimizer: torch.optim.Optimizer, rows: list[IntArray]) -> None:
        """One optimizer step over the rows of its batches, of which this process takes its own, in
        pieces that fit in memory."""
        while (loss := self._fitting_loss(rows)) is None:
            optimizer.zero_grad(set_to_none=True)
        self.team.add_gradients(self.model)
        trained = [p for p in self.model.parameters() if p.grad is not None]
        limit = (self.recipe.optimizer.grad_clip if self.privacy is None else 0) or math.inf
        self._gradient_norms.append(self.team.clip(trained, limit))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._losses.append(loss)
        if self.recipe.ema is not None and self.progress.average is not None:
            follow(self.progress.average, self.model, self.recipe.ema, self.progress.step)

    def _fitting_loss(self, rows: list[IntArray]) -> Tensor | None:
        """As `_loss`; None where memory ran out, after which less is tried at a time.

        Raises:
            HalvedError: it ran out for one process of several.
            OutOfMemoryError: less was tried before.
        """
        micro, team = self.micro_batches, self.team
        if micro is None:
            pieces = [team.own(batch) for batch in rows]
        else:
            pieces = [piece for batch in rows for piece in micro.cut(batch)]
        try:
            return self._loss(pieces)
        except (MemoryError, RuntimeError) as error:
            if micro is None or not is_out_of_memory(error):
                raise
        micro.shrink()  # here, where no traceback holds what was computed
        if team.size > 1:
            raise halved(team.rank)
        return None

    def _loss(self, pieces: list[IntArray]) -> Tensor:
        """Add up the gradients of a step's rows, piece by piece; return its loss."""
        device = self.model.device
        objective = self._objective_at(self.progress.step)
        if self.privacy is not None:
            pieces = [rows[i : i + 1] for rows in pieces for i in range(len(rows))]
        batches = [objective.batch(self.train, rows).to(device) for rows in pieces]
        counts = (sum(b.num_labels for b in batches), sum(b.num_tokens for b in batches))
        labels, tokens = self.team.sums([*counts])
        loss = self._gradients(batches, max(1, int(labels)))
        self._tokens += int(tokens)
        self.progress.tokens += int(tokens)
        return loss

    def _gradients(self, batches: list[Batch], num_labels: int) -> Tensor:
        """Leave the gradients of batches in the parameters; return their loss."""
        if self.privacy is not None:
            smooth, step = self.recipe.label_smoothing, self.progress.step
            return self.privacy.backward(self.model, batches, step, smooth, self._give_way)
        loss = torch.zeros((), device=self.model.device)
        for batch in batches:
            self._give_way()
            loss += self._backward(batch, num_labels)
            if self.watch is not None:
                self.watch.count(batch)
        return loss

    def _give_way(self) -> None:
        self.context.wait_while_paused()
        self.context.raise_if_cancelled()

    def _objective_at(self, step: int) -> Objective:
        objective = self.objective
        return objective.at(step) if isinstance(objective, Scheduled) else objective

    def _backward(self, batch: Batch, num_labels: int) -> Tensor:
        """Add the gradients of a micro-batch's share of the loss; return that share."""
        recipe = self.recipe
        if recipe.robust is not None:
            return robust.backward(
                self.model, batch, num_labels, recipe.robust, recipe.label_smoothing
            )
        with self._precision():
            part = batch.loss_sum(self.model, recipe.label_smoothing) / num_labels
        part.backward()  # type: ignore[no-untyped-call]
        return part.detach()

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self.recipe.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, torch.bfloat16)

    def _is_over(self) -> bool:
        if self.progress.step >= self.recipe.steps:
            return True
        patience = self.recipe.early_stopping
        return patience is not None and num_no_better(self._validations()) >= patience

    def _rate(self, step: int) -> float:
        section = self.recipe.optimizer
        validations = self._validations() if section.schedule == "plateau" else ()
        objective = self._objective_at(step)
        share = objective.rate_share if isinstance(objective, Scheduled) else 1.0
        return share * learning_rate(step, self.recipe.steps, section, validations)

    def _validations(self) -> list[float]:
        return validation_losses(self.progress.curve)

    def _keep_up(self, optimizer: torch.optim.Optimizer, validation: list[IntArray]) -> None:
        """Report, validate and checkpoint where it is time."""
        recipe, step = self.recipe, self.progress.step
        is_last = step == recipe.steps
        is_version = is_last or step in recipe.keep_at
        validates = is_version or step % recipe.eval_every == 0
        checkpoints = is_version or step % recipe.checkpoint_every == 0
        if validates or checkpoints or step == 1 or step % _report_every(recipe.steps) == 0:
            self._report(validation if validates else None)
        if not is_last and self._is_over():
            is_last = checkpoints = True
            self.context.log(f"no better since step {self.progress.best_step}: ended at {step}")
        leaves = self.team.any(self.context.is_leaving) and not is_last
        if leaves:
            self._check_pending()
        if checkpoints or leaves:
            self._note_time()
            self.progress.unreported = self._pending()
            save = self._writer.save_last if is_last or leaves else self._writer.save
            save(self.model, optimizer, self.progress)
        elif not self._writer.has_room and step + recipe.checkpoint_every < recipe.steps:
            self._writer.reserve(self.model, optimizer, self.progress)
        if leaves:
            raise CancelledError

    def _report(self, validation: list[IntArray] | None) -> None:
        step, steps = self.progress.step, self.recipe.steps
        gradient_norm = float(self._gradient_norms[-1])
        loss = self._mean_of_pending()
        seconds = max(self._now() - self._last, 1e-9)
        point = {
            "step": float(step),
            "loss": loss,
            "learning_rate": self._rate(step - 1),
            "gradient_norm": gradient_norm,
            "tokens_per_s": self._tokens / seconds,
        }
        if isinstance(objective := self._objective_at(step - 1), Scheduled):
            point |= objective.told()
        if self.privacy is not None:
            point["epsilon"] = self.privacy.epsilon(step)
        if validation is not None:
            with averaged(self.model, self.progress.average):
                measured = means(self.model, self.objective, self.validation, validation, self.team)
                if isinstance(self.objective, Surveyed):
                    measured |= self.objective.survey(self.model, self.validation)
                point |= {f"validation_{name}": value for name, value in measured.items()}
                self._note_best(point["validation_loss"])
        self.progress.curve.append(point)
        self._note_time()
        self._tokens = 0
        told = {name: value for name, value in point.items() if name != "step"}
        if self.watch is not None:
            told |= self.watch.told(seconds)
        told["eta_s"] = self.progress.seconds / step * (steps - step)
        self.context.metric(step, **told)
        self.context.progress(step, steps, _message(point, self.progress.curve))

    def _mean_of_pending(self) -> float:
        """Mean loss of the steps since the last report, each checked to be a number."""
        losses = self._check_pending()
        self._losses.clear()
        self._gradient_norms.clear()
        self.progress.unreported.clear()
        return float(sum(losses) / len(losses))

    def _check_pending(self) -> list[float]:
        """As `_pending`, each a number.

        Raises:
            DivergedError: one is not, or the norm of a gradient.
        """
        losses = self._pending()
        norms = torch.stack(self._gradient_norms).tolist() if self._gradient_norms else []
        wrong = [
            (self.progress.step - len(values) + 1 + place, what, value)
            for what, values in (("loss", losses), ("gradient's norm", norms))
            for place, value in enumerate(values)
            if not math.isfinite(value)
        ]
        if wrong:
            raise self._diverged(*min(wrong, key=lambda found: found[0]))
        return losses

    def _diverged(self, step: int, what: str, value: float) -> DivergedError:
        """Return the error of a step whose batch did that; the log has all of its rows."""
        rows = [name for own in self._rows_of(step - 1) for name in named(self._sampler, own)]
        self.context.log(f"step {step} learned from rows {', '.join(rows)} of the training split")
        some = ", ".join(rows[:SHOWN_ROWS]) + (", …" if len(rows) > SHOWN_ROWS else "")
        return DivergedError(
            f"the {what} became {value} at step {step}, of rows {some} of the training split: "
            "try a lower optimizer.learning_rate or a longer optimizer.warmup_steps"
        )

    def _pending(self) -> list[float]:
        """The loss of each step since the last report, those of an earlier attempt first."""
        losses = torch.stack(self._losses).tolist() if self._losses else []
        return [*self.progress.unreported, *self.team.sums(losses)]

    def _now(self) -> float:
        return self.clock() - self.context.still_s

    def _note_time(self) -> None:
        now = self._now()
        self.progress.seconds += now - self._last
        self._last = now

    def _kept_weights(self) -> list[Tensor]:
        progress = self.progress
        return [*(progress.best_weights or {}).values(), *(progress.average or {}).values()]

    def _note_best(self, loss: float) -> None:
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            if self.recipe.publish == "best":
                self.progress.best_weights = copied_weights(self.model)

    def _validation_batches(self, limit: int | None) -> list[IntArray]:
        return evaluation_batches(self.objective, self.validation, self.recipe.batch_size, limit)


def _report_every(steps: int) -> int:
    return max(1, min(steps // REPORTS, MAX_STEPS_UNREPORTED))


def _message(point: dict[str, float], curve: list[dict[str, float]]) -> str:
    validations = [p["validation_loss"] for p in curve if "validation_loss" in p]
    validation = f" · validation {validations[-1]:.3f}" if validations else ""
    return f"loss {point['loss']:.3f}{validation} · {point['tokens_per_s']:,.0f} tokens/s"
