"""The only training loop. It owns the clock, the optimizer, label dropout, the EMA and the checkpoints."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.data.dataset import Dataset
from harness.data.loader import Loader, StoredBatch, rows_of
from harness.model.method import Method
from harness.recipes.config import RunConfig
from harness.records.machine import peak_memory
from harness.system.errors import Diverged, HarnessError
from harness.system.processes import signals
from harness.system.processes.world import World
from harness.training import checkpoint
from harness.training.checkpoint import Checkpoint, Keep, Unlogged, Writer
from harness.training.logbook import Logbook, Observe, Report, Speed
from harness.training.step import Losses, TrainStep
from harness.training.telemetry import StepClock


class Trained(NamedTuple):
    network: nn.Module  # the averaged one, in evaluation mode
    seconds: float  # wall time of training, over all the processes that worked on the run
    speed: Speed
    compiled: bool
    attention: str  # its kernels
    notes: list[str]  # how the steps were carried out otherwise than asked


def train(
    method: Method,
    cfg: RunConfig,
    data: Dataset,
    folder: Path,
    *,
    device: torch.device,
    report: Report,
    note: Callable[[str], None],
    world: World = World(),
    images_per_sec_at_peak: float | None = None,
    observe: Observe = lambda step, network: {},
) -> Trained:
    """Train `method` to the end of its budget, continuing from the newest good checkpoint in `folder`.

    `observe` says more of the averaged network for a line of the log; the clock is stopped meanwhile.
    `images_per_sec_at_peak` is what the devices would reach if they did nothing but the step's matrix products at their
    data sheets' rate; the speed over it is logged as `mfu`, the model-FLOP utilisation.

    Every process of `world` calls this alike; the main one writes metrics.jsonl, events.jsonl and checkpoints/. Raises
    Diverged at a loss that is not finite, Preempted or Interrupted after saving when a signal arrives, DataError when
    the disk refuses a write, UsageError when the batch does not divide.
    """
    return _Run(method, cfg, data, folder, world, device, report, note, images_per_sec_at_peak, observe).to_the_end()


class _Run:
    def __init__(self, method, cfg, data, folder, world, device, report, note, images_per_sec_at_peak, observe):
        self.cfg, self.data, self.folder, self.world, self.device = cfg, data, folder, world, device
        self.at_peak, self.observe = images_per_sec_at_peak, observe
        self.log = Logbook(folder, report=report, note=note, writes=world.is_main)
        self.train_step = TrainStep(method, cfg, data, world=world, device=device)
        self.writer = Writer(
            folder / "checkpoints",
            cfg.sha256,
            Keep(cfg.execution.keep_last, cfg.execution.keep_every),
            written=lambda step: self.log.event("checkpoint", step=step),
        )
        self.losses: list[Losses] = []  # of the last steps, read and added to `unlogged` all at once
        self.unlogged = Unlogged(0, {})
        self.step, self.seconds_before = self._resume()
        self.started = time.perf_counter()
        self.clock = StepClock(device)

    def to_the_end(self) -> Trained:
        protocol, execution = self.cfg.protocol, self.cfg.execution
        loader = Loader(
            self.data,
            seed=self.cfg.seed,
            batch_size=protocol.batch_size,
            flips=protocol.flips == "random",
            rows=rows_of(self.cfg, self.world),
            first_step=self.step,
            device=self.device,
            resident=execution.residency == "gpu",
        )
        self.log.event("resume" if self.step else "start", step=self.step)
        with loader, signals.deferred() as inbox:
            try:
                while self.step < protocol.steps:
                    done = self.step + 1
                    saves = done == protocol.steps or done % execution.checkpoint_every == 0
                    logs = saves or done % execution.log_every == 0
                    with self.clock.waiting_for_data():
                        batch = loader.next()
                    losses, gradient_norm = self._one_step(batch, measure_gradient=logs)
                    self.losses.append(losses)
                    self.step = done
                    self.clock.step_done()
                    if logs or (inbox.received and self.world.size == 1):
                        self._pause(inbox, gradient_norm, logs=logs, saves=saves)
            finally:
                self.writer.join()
            if inbox.received and self.world.size == 1:
                raise self._stopped(inbox.received)  # while the last checkpoint was written
        step = self.train_step
        notes = [f"not compiled: {step.not_compiled}"] if step.not_compiled else []
        return Trained(step.ema.network, self._seconds(), self.log.speed(), step.compiled, step.attention, notes)

    def _one_step(self, batch: StoredBatch, *, measure_gradient: bool) -> tuple[Losses, Tensor | None]:
        known = self.train_step.not_compiled
        done = self.train_step(batch, self.step, measure_gradient=measure_gradient)
        if self.train_step.not_compiled != known:
            self.log.note(f"this run is not compiled: {self.train_step.not_compiled}")
        return done

    def _pause(self, inbox: signals.Inbox, gradient_norm: Tensor | None, *, logs: bool, saves: bool) -> None:
        """Between two steps: read the losses, log, save, and stop if a signal has come to any process."""
        with self.clock.paused():
            self._read_losses()
            if logs:  # else the checkpoint of the stop keeps the losses that the next line averages
                self._log(gradient_norm)
            received = self._agreed(inbox)  # one that comes after this is for the next pause
            if saves or received:
                self._save()
        if received:
            self.writer.join()
            raise self._stopped(received)

    def _stopped(self, received: signals.Signal) -> HarnessError:
        self.log.event("preemption", step=self.step, signal=received.name)
        return signals.error(received, self.step)

    def _agreed(self, inbox: signals.Inbox) -> signals.Signal | None:
        """The signal that any process received, in all of them: they stop after the same step or not at all."""
        if self.world.size == 1:
            return inbox.received
        number = torch.tensor(inbox.received or 0, device=self.device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return signals.Signal(int(number.item())) if number else None

    def _read_losses(self) -> None:
        table = torch.stack([torch.stack(list(losses.values())) for losses in self.losses])  # (steps, parts)
        if self.world.size > 1:
            dist.all_reduce(table.div_(self.world.size))
        rows = [dict(zip(self.losses[0], row, strict=True)) for row in table.tolist()]
        self.losses.clear()
        self._refuse_non_finite_loss([row["loss"] for row in rows])
        self.unlogged = self.unlogged.plus(rows)

    def _log(self, gradient_norm: Tensor | None) -> None:
        window = self.clock.read()
        peak = peak_memory(self.device)[0]
        if self.world.size > 1:
            highest = torch.tensor(peak or 0, device=self.device)
            dist.all_reduce(highest, dist.ReduceOp.MAX)
            peak = int(highest.item()) or None
        batch_size = self.cfg.protocol.batch_size
        speed = window.steps_per_sec
        images_per_sec = speed and speed * batch_size
        self.log.line(
            {
                "step": self.step,
                "images": self.step * batch_size,
                **{name: total / self.unlogged.steps for name, total in self.unlogged.sums.items()},
                "lr": self.train_step.learning_rate,
                "grad_norm": None if gradient_norm is None else gradient_norm.item(),
                "steps_per_sec": speed,
                "images_per_sec": images_per_sec,
                "data_wait_share": window.data_wait_share,
                "timed_steps": window.steps,
                "timed_seconds": window.seconds,
                "peak_memory_bytes": peak,
                "mfu": images_per_sec and self.at_peak and images_per_sec / self.at_peak,
                **(self.observe(self.step, self.train_step.ema.network) if self.world.is_main else {}),
            }
        )
        self.unlogged = Unlogged(0, {})

    def _refuse_non_finite_loss(self, losses: list[float]) -> None:
        """Name the first of the last steps whose loss was not finite. Runs before every save."""
        for step, value in enumerate(losses, start=self.step - len(losses) + 1):
            if not math.isfinite(value):
                self.log.event("divergence", step=step, loss=str(value))
                raise Diverged(
                    f"the loss is {value} at step {step} of {self.folder.parent.name}. Nothing was saved after it. "
                    + self._advice()
                )

    def _refuse_non_finite_weights(self) -> None:
        """A finite loss may have had a gradient that is not: the next step would find out, after the save."""
        if not self.train_step.is_finite():
            self.log.event("divergence", step=self.step, weights="not finite")
            raise Diverged(
                f"the weights are not finite after step {self.step} of {self.folder.parent.name}; they were not saved. "
                + self._advice()
            )

    def _advice(self) -> str:
        halved = self.cfg.protocol.learning_rate / 2
        return (
            f"Lower the learning rate (--set learning_rate={halved:g}), try another --seed, or look for damage in the "
            "data (harness data verify)."
        )

    def _save(self) -> None:
        self._refuse_non_finite_weights()
        if not self.world.is_main:
            return  # all processes hold the same weights
        self.writer.join()  # before there is a second copy
        step = self.train_step
        self.writer.write(
            Checkpoint(
                self.step,
                self._seconds(),
                checkpoint.copied(step.method.state_dict()),
                checkpoint.copied(step.ema.network.state_dict()),
                checkpoint.copied(step.optimizer.state_dict()),
                self.unlogged,
                step.compiled,
            )
        )

    def _resume(self) -> tuple[int, float]:
        """The step to go on from and the seconds so far."""
        saved = checkpoint.load_newest(self.folder / "checkpoints", self.cfg.sha256, self.log.note)
        step = saved.step if saved else 0
        checkpoint.refuse_disagreement(self.folder, step, self.world)
        if self.world.is_main:  # all have read
            checkpoint.go_back_to(self.folder / "checkpoints", step)
        self.unlogged = saved.unlogged if saved else Unlogged(0, {})
        self.log.go_back_to(step, last_line=step - self.unlogged.steps)
        if not saved:
            return 0, 0.0
        self.train_step.restore(saved)
        if step < self.cfg.protocol.steps:
            self.log.note(f"continuing from the checkpoint of step {step:,}.")
        return step, saved.seconds

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started
