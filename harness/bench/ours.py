"""This harness's training step as a contender."""

import time
from typing import Any

import torch

import baselines
from harness.data import sources
from harness.data.dataset import InMemory
from harness.data.loader import Loader, rows_of
from harness.recipes.config import RunConfig
from harness.system import allocator
from harness.system.precision import deterministic, set_precision
from harness.system.processes.world import World
from harness.training.step import TrainStep


class HarnessStep:
    """The step of a run of `cfg`, with the loader and the averages it has there; it logs nothing and saves nothing."""

    def __init__(self, name: str, cfg: RunConfig, device: torch.device):
        self.name, self.cfg, self.num_images, self.data_seconds = name, cfg, cfg.protocol.batch_size, 0.0
        self._device = device
        data, method, world = sources.of(cfg), baselines.build(cfg), World()
        if isinstance(data, InMemory) and not data.real:
            data = data.beside(method.extra)
        self._step = TrainStep(method, cfg, data, world=world, device=device)
        self._loader = Loader(
            data,
            seed=cfg.seed,
            batch_size=cfg.protocol.batch_size,
            flips=cfg.protocol.flips == "random",
            rows=rows_of(cfg, world),
            first_step=0,
            device=device,
            resident=cfg.execution.residency == "gpu",
        )
        self._taken = 0

    def step(self) -> None:
        set_precision(self.cfg.protocol.precision)  # it holds for the whole process, and the contenders take turns
        start = time.perf_counter()
        batch = self._loader.next()
        self.data_seconds += time.perf_counter() - start
        with deterministic(self.cfg.execution.deterministic, self._device):
            self._step(batch, self._taken % self.cfg.protocol.steps, measure_gradient=False)
        self._taken += 1

    def conditions(self) -> dict[str, Any]:
        protocol, execution = self.cfg.protocol, self.cfg.execution
        return {
            "code": "harness",
            "recipe": self.cfg.recipe,
            "method": self.cfg.method,
            "formulation": self.cfg.formulation,
            "knobs": self.cfg.knobs.model_dump(mode="json"),
            "precision": protocol.precision,
            "compiled": self._step.compiled,
            "cuda_graphs": self._step.compiled and execution.cuda_graphs,
            "pipeline": protocol.pipeline,
            "data": protocol.data,
            "vae": protocol.vae if protocol.pipeline == "online-vae" else None,
            "micro_batch": execution.micro_batch,
            "attention": self._step.attention,
            "activation_checkpointing": execution.activation_checkpointing,
            "deterministic": execution.deterministic,
            "residency": execution.residency,
            "allocator": allocator.state(),
            "notes": [f"not compiled: {self._step.not_compiled}"] if self._step.not_compiled else [],
        }
