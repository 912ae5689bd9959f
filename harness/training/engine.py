"""The only training loop. It owns the clock, the optimizer, label dropout, the EMA and the checkpoints."""

import json
import math
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harness.config import RunConfig
from harness.data.order import batch_indices
from harness.data.sources import Dataset
from harness.errors import DataError, Diverged
from harness.results.schema import append_line, read_lines, write_atomically
from harness.training import checkpoint, signals
from harness.training.checkpoint import Checkpoint
from harness.training.ema import Ema
from harness.training.method import Method, Progress
from harness.training.randomness import seed_step
from harness.training.telemetry import StepClock, peak_memory

Report = Callable[[dict[str, Any]], None]  # one line of metrics.jsonl, as it is written


class Trained(NamedTuple):
    network: nn.Module  # the averaged one, in evaluation mode
    seconds: float  # wall time of training, over all the processes that worked on the run
    steps_per_sec: float | None  # mean over the timed steps
    steps_per_sec_sd: float | None  # over the windows between log lines
    timed_steps: int
    peak_memory_bytes: int | None  # the highest of any process that worked on the run


def train(
    method: Method,
    cfg: RunConfig,
    data: Dataset,
    folder: Path,
    *,
    device: torch.device,
    report: Report,
    note: Callable[[str], None],
) -> Trained:
    """Train `method` to the end of its budget, continuing from the newest good checkpoint in `folder`.

    Writes metrics.jsonl, events.jsonl and checkpoints/. Raises Diverged at a loss that is not finite, Preempted or
    Interrupted after saving when a signal arrives, DataError when the disk refuses a write.
    """
    return _Run(method, cfg, data, folder, device=device, report=report, note=note).to_the_end()


class _Run:
    def __init__(self, method, cfg, data, folder, *, device, report, note):
        self.method, self.cfg, self.data, self.folder = method.to(device).train(), cfg, data, folder
        self.device, self.report, self.note = device, report, note
        protocol = cfg.protocol
        self.optimizer = torch.optim.AdamW(
            [p for p in method.parameters() if p.requires_grad],
            lr=protocol.learning_rate,
            betas=protocol.betas,
            weight_decay=protocol.weight_decay,
            fused=True,
        )
        self.ema = Ema(method.network, protocol.ema_decay, warmup=protocol.ema_warmup)
        self.metrics = folder / "metrics.jsonl"
        self.step, self.seconds_before = self._resume()
        self.started = time.perf_counter()
        self.clock = StepClock(device)
        self.losses: list[dict[str, Tensor]] = []  # of the steps since the last log line, read all at once

    def to_the_end(self) -> Trained:
        cfg, total = self.cfg, self.cfg.protocol.steps
        self._event("resume" if self.step else "start")
        with signals.deferred() as inbox:
            while self.step < total:
                done = self.step + 1
                saves = done == total or done % cfg.checkpoint_every == 0
                logs = saves or done % cfg.log_every == 0  # so that a line never averages across an interruption
                gradient_norm = self._train_step(measure_gradient=logs)
                self.clock.step_done()
                if logs or inbox.received:
                    with self.clock.paused():
                        self._refuse_non_finite_loss()
                        self._log(gradient_norm)
                        if saves or inbox.received:
                            self._save()
                if inbox.received and self.step < total:
                    self._event("preemption", signal=inbox.received.name)
                    raise inbox.error(self.step)
        return self._summary()

    def _summary(self) -> Trained:
        lines, _ = read_lines(self.metrics)
        timed_steps = sum(line["timed_steps"] for line in lines)
        timed_seconds = sum(line["timed_seconds"] for line in lines)
        speeds = [line["steps_per_sec"] for line in lines if line["steps_per_sec"]]
        return Trained(
            self.ema.network,
            self._seconds(),
            timed_steps / timed_seconds if timed_steps else None,
            statistics.stdev(speeds) if len(speeds) > 1 else None,
            timed_steps,
            max((line["peak_memory_bytes"] for line in lines if line["peak_memory_bytes"]), default=None),
        )

    def _train_step(self, *, measure_gradient: bool) -> Tensor | None:
        protocol = self.cfg.protocol
        with self.clock.waiting_for_data():
            indices = batch_indices(len(self.data), self.cfg.seed, self.step, protocol.batch_size)
            clean, labels = (part.to(self.device, non_blocking=True) for part in self.data.batch(indices))
        seed_step(self.cfg.seed, self.step)
        labels = drop_labels(labels, protocol.label_dropout, null_label=self.data.num_classes)
        progress = Progress(self.step / protocol.steps, self.step * protocol.batch_size / len(self.data))
        losses = self.method(clean, labels, progress)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        gradient_norm = self._gradient_norm() if measure_gradient else None
        self.optimizer.step()
        self.method.after_step(progress)
        self.ema.update(self.step)
        self.losses.append({name: value.detach() for name, value in losses.items()})
        self.step += 1
        return gradient_norm

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _refuse_non_finite_loss(self) -> None:
        """Name the first step since the last log line whose loss was not finite. Runs before every save."""
        for step, losses in enumerate(self.losses, start=self.step - len(self.losses) + 1):
            value = losses["loss"].item()
            if not math.isfinite(value):
                self._event("divergence", step=step, loss=str(value))
                raise Diverged(
                    f"the loss is {value} at step {step} of {self.folder.parent.name}. Nothing was saved after it. "
                    f"Lower the learning rate (--set learning_rate={self.cfg.protocol.learning_rate / 2:g}) or try "
                    "another --seed."
                )

    def _refuse_non_finite_weights(self) -> None:
        """A finite loss may have had a gradient that is not: the next step would find out, after the save."""
        norms = torch.stack(torch._foreach_norm(list(self.method.parameters())))
        if not norms.isfinite().all():
            self._event("divergence", weights="not finite")
            raise Diverged(
                f"the weights are not finite after step {self.step} of {self.folder.parent.name}; they were not saved. "
                f"Lower the learning rate (--set learning_rate={self.cfg.protocol.learning_rate / 2:g}) or try "
                "another --seed."
            )

    def _log(self, gradient_norm: Tensor | None) -> None:
        window = self.clock.read()
        means = {name: torch.stack([loss[name] for loss in self.losses]).mean().item() for name in self.losses[0]}
        self.losses.clear()
        batch_size = self.cfg.protocol.batch_size
        speed = window.steps_per_sec
        line = {
            "step": self.step,
            "images": self.step * batch_size,
            **means,
            "lr": self.cfg.protocol.learning_rate,
            "grad_norm": None if gradient_norm is None else gradient_norm.item(),
            "steps_per_sec": speed,
            "images_per_sec": speed and speed * batch_size,
            "data_wait_share": window.data_wait_share,
            "timed_steps": window.steps,
            "timed_seconds": window.seconds,
            "peak_memory_bytes": peak_memory(self.device)[0],
            "mfu": None,  # no table of device peaks yet
        }
        _write(self.metrics, line)
        self.report(line)

    def _save(self) -> None:
        self._refuse_non_finite_weights()
        state = Checkpoint(
            self.step,
            self._seconds(),
            self.method.state_dict(),
            self.ema.network.state_dict(),
            self.optimizer.state_dict(),
        )
        checkpoint.save(self.folder / "checkpoints", state, self.cfg.sha256)
        self._event("checkpoint")

    def _resume(self) -> tuple[int, float]:
        """The step to go on from and the seconds so far. Log lines past that step are dropped: they come again."""
        saved = checkpoint.load_newest(self.folder / "checkpoints", self.cfg.sha256, self._note_event)
        step = saved.step if saved else 0
        lines, damaged = read_lines(self.metrics)
        kept = [line for line in lines if line.get("step", step + 1) <= step]
        if damaged:
            self._note_event(f"metrics.jsonl had {damaged} damaged line(s), left out.")
        if damaged or len(kept) < len(lines):
            write_atomically(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        if not saved:
            return 0, 0.0
        self.method.load_state_dict(saved.method)
        self.ema.network.load_state_dict(saved.ema)
        self.optimizer.load_state_dict(saved.optimizer)
        if step < self.cfg.protocol.steps:
            self.note(f"continuing from the checkpoint of step {step:,}.")
        return step, saved.seconds

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def _note_event(self, text: str) -> None:
        self.note(text)
        _write(self.folder / "events.jsonl", {"time": _now(), "event": "note", "text": text})

    def _event(self, event: str, **details: Any) -> None:
        step = {"step": self.step} if "step" not in details else {}
        _write(self.folder / "events.jsonl", {"time": _now(), "event": event, **step, **details})


def drop_labels(labels: Tensor, probability: float, *, null_label: int) -> Tensor:
    """Labels with each replaced by "no label" at `probability`, for classifier-free guidance: here, once, for all."""
    dropped = torch.rand(len(labels), device=labels.device) < probability
    return torch.where(dropped, null_label, labels)


def _write(path: Path, document: dict[str, Any]) -> None:
    try:
        append_line(path, document)
    except OSError as error:
        raise DataError(
            f"{path.name} could not be written: {error.strerror or error}. Free some space or choose another --out, "
            "then repeat the command: it continues from the last checkpoint."
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
