"""The work itself, in small: one step of every method, two images by every sampler, the metrics' known answers."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.checks.doctor.finding import Finding, failure, in_brief, ok

SMALL = ("batch_size=8", "steps=2", "log_every=1", "checkpoint_every=2")
NUM_STEPS = 5  # of a sampler


def methods() -> Iterator[Finding]:
    """One step of each method that the registry names, those of other packages too."""
    import baselines
    from harness.recipes import plugins
    from harness.recipes import reading as recipes

    broken = recipes.broken()
    for name in baselines.names():
        if name not in broken or name in plugins.built_in():  # a plug-in that claims such a name is refused alone
            yield _step(name)
    for name, why in broken.items():
        yield failure(f"plug-in {name}", why, "Mend or uninstall the package that brings it.")


def _step(name: str) -> Finding:
    from harness.system.errors import HarnessError
    from harness.system.threads import one_thread

    label = f"step {name}"
    mend = f"Run it alone: harness --debug run {name}-tiny --steps 10 --no-eval"
    try:
        with one_thread():
            problem, loss = step_of(name)
    except HarnessError as error:
        return failure(label, in_brief(error), mend)
    except Exception as error:  # one method's fault must not hide the others'
        return failure(label, f"{type(error).__name__}: {in_brief(error)}", mend)
    if problem:
        return failure(label, problem, mend)
    return ok(label, f"loss {loss:.3f}, all gradients there, checkpoint good")


def step_of(name: str) -> tuple[str | None, float]:
    """What is wrong with one step of the method on digits and with the checkpoint after it, if anything; its loss."""
    import math

    import torch

    import baselines
    from harness.data import sources
    from harness.data.loader import Batch
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
    losses, _ = step(Batch(stored.to(device), labels.to(device)), 0, measure_gradient=True)
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
    return None if same else "its averaged weights are others when saved and read again", loss


def _recipe(name: str) -> str:
    """The method's tiny recipe, or its first one."""
    from harness.recipes import reading as recipes

    own = [recipe for recipe in recipes.recipe_names() if recipe.partition("-")[0] == name]
    return f"{name}-tiny" if f"{name}-tiny" in own or not own else own[0]


def samplers() -> Iterator[Finding]:
    """Two images by each sampler, from untrained networks: finite, of the right shape, the same when drawn again."""
    from harness.model.samplers import SAMPLERS
    from harness.system.errors import HarnessError
    from harness.system.threads import one_thread

    for name, sampler in SAMPLERS.items():
        try:
            with one_thread():
                problem = drawn_by(name, sampler.formulations[0])
        except HarnessError as error:  # such as values that are not finite
            problem = in_brief(error)
        label, found = f"sampler {name}", f"two images in {NUM_STEPS} steps, the same when drawn again"
        mend = "Run: harness demo, and report what it says with this line."
        yield failure(label, problem, mend) if problem else ok(label, found)


def drawn_by(sampler: str, formulation: str) -> str | None:
    """What is wrong with images that `sampler` draws; None for nothing."""
    import torch

    import baselines
    from harness.evaluation.generation import choose_labels, generate
    from harness.model.formulations import FORMULATIONS
    from harness.planning.plan import resolve
    from harness.system.precision import default_device

    asked = [f"formulation={formulation}", f"sampler={sampler}", f"sampling.num_steps={NUM_STEPS}"]
    cfg = resolve("dit-tiny", asked)
    device = default_device()
    network = baselines.build(cfg).network.to(device).eval()
    shape = (cfg.input.channels, cfg.input.side, cfg.input.side)

    def draw():
        return generate(
            network, FORMULATIONS[formulation](), cfg.sampling,
            choose_labels("balanced", 2, cfg.input.num_classes, 0),
            image_shape=shape, null_label=cfg.input.num_classes, seed=0, batch_size=2, device=device,
        ).images  # fmt: skip

    images, again = draw(), draw()
    if tuple(images.shape) != (2, *shape[1:], shape[0]) or images.dtype != torch.uint8:
        return f"images of shape {tuple(images.shape)} and type {images.dtype}"
    return None if torch.equal(images, again) else "other images when drawn again with the same seed"


def metrics() -> Finding:
    """The evaluator's checks of formulas; `harness evaluate --self-test` has those of sets of images too."""
    from harness.evaluation.metrics import self_test

    checks = self_test.of_formulas()
    wrong = [f"{check.name}: {check.measured:.5g} instead of {check.expected}" for check in checks if not check.passed]
    if wrong:
        return failure("metrics", "; ".join(wrong), "Run: harness evaluate --self-test; NumPy or SciPy may be broken.")
    return ok("metrics", f"{len(checks)} known answers; harness evaluate --self-test has more")
