"""One training step of a method, in small."""

import tempfile
from pathlib import Path

from harness.checks.finding import Finding, failure, ok

SMALL = ("batch_size=8", "steps=2", "log_every=1", "checkpoint_every=2")


def broken(why: str) -> Finding:
    """A method of another package that cannot be used."""
    return failure(why, "Correct or uninstall the package that brings it.")


def step(name: str) -> Finding:
    """One step of the method on digits, and the checkpoint after it."""
    from harness.system.precision import one_thread

    with one_thread():
        problem, loss = step_of(name)
    if problem:
        return failure(problem, f"Run it alone: harness --debug run {name}-tiny --steps 10 --no-eval")
    return ok(f"loss {loss:.3f}, all gradients there, checkpoint good")


def step_of(name: str) -> tuple[str | None, float]:
    """What is wrong with one step of the method or the checkpoint after it, None for nothing; and the step's loss."""
    import math

    import torch

    import baselines
    from harness.data import sources
    from harness.data.loader import StoredBatch
    from harness.data.order import batch_indices
    from harness.planning.plan import resolve
    from harness.system.precision import default_device
    from harness.system.processes.world import World
    from harness.training import checkpoint
    from harness.training.step import TrainStep

    cfg, device = resolve(_recipe(name), list(SMALL)), default_device()
    data = sources.load("digits", shape=cfg.input)
    step = TrainStep(baselines.build(cfg), cfg, data, world=World(), device=device)
    stored, labels = data.read(batch_indices(len(data), cfg.seed, 0, cfg.protocol.batch_size))
    losses, _ = step(StoredBatch(stored.to(device), labels.to(device)), 0, measure_gradient=True)
    loss = float(losses["loss"])
    if not math.isfinite(loss):
        return f"its loss is {loss}", loss
    trained = {n: p for n, p in step.method.named_parameters() if p.requires_grad}
    gradients = {n: p.grad for n, p in trained.items() if p.grad is not None}
    without = sorted(trained.keys() - gradients.keys())
    if without:
        return f"{len(without)} parameter(s) without a gradient, {without[0]} among them", loss
    wild = [n for n, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]
    if wild:
        return f"a gradient that is not finite, of {wild[0]}", loss
    average = checkpoint.copied(step.ema.network.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save_ema(Path(folder), 1, average, cfg.sha256)
        _, again = checkpoint.load_ema(Path(folder), cfg.sha256, lambda note: None, 1) or (0, {})
    same = again.keys() == average.keys() and all(torch.equal(again[key], average[key]) for key in average)
    return None if same else "its averaged weights differ after they were saved and read again", loss


def _recipe(name: str) -> str:
    """The method's tiny recipe, or its first one."""
    from harness.recipes import reading as recipes

    own = [recipe for recipe in recipes.recipe_names() if recipe.partition("-")[0] == name]
    return f"{name}-tiny" if f"{name}-tiny" in own or not own else own[0]
