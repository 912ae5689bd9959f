"""What the doctor asks, in the order of importance: when the time is over, the last ones are not asked."""

from functools import partial

from harness.checks.doctor import accelerator, environment, folders, libraries, machine, processes, trials, weights
from harness.checks.doctor.finding import Check

ENVIRONMENT, MACHINE, FOLDERS, LIBRARIES, SMALL = "environment", "machine", "folders", "libraries", "a run in small"
FILES, TIME = "weights, references, data of the paper's scale", "the examination itself"
THEMES = (ENVIRONMENT, MACHINE, FOLDERS, LIBRARIES, SMALL, FILES, TIME)  # as they are shown

EMA, MSE = "stabilityai/sd-vae-ft-ema", "stabilityai/sd-vae-ft-mse"
REFERENCE_256, REFERENCE_512 = "VIRTUAL_imagenet256_labeled.npz", "VIRTUAL_imagenet512.npz"


def checks(nproc: int) -> list[Check]:
    """Every check that a process of its own can carry out; `nproc` processes meet in one of them."""
    return [
        Check(ENVIRONMENT, "Python", environment.python),
        Check(ENVIRONMENT, "harness", environment.version),
        Check(ENVIRONMENT, "packages", environment.dependencies),
        Check(ENVIRONMENT, "extras", environment.extras),
        Check(ENVIRONMENT, "clock", environment.clock),
        Check(MACHINE, "cores", machine.cores),
        Check(MACHINE, "memory", machine.memory, 30),
        Check(MACHINE, "shared memory", machine.shared_memory),
        Check(MACHINE, "open files", machine.open_files),
        Check(MACHINE, "torch", accelerator.torch_build, 30),
        Check(MACHINE, "GPU", accelerator.gpus, 30),
        Check(FOLDERS, "runs/", folders.runs),
        Check(FOLDERS, "cache", folders.cache),
        Check(FOLDERS, "data", folders.data),
        Check(FOLDERS, "downloads", folders.downloads),
        Check(LIBRARIES, "torchvision", libraries.torchvision, 30),
        Check(FILES, "Inception", weights.inception),
        Check(FILES, "VAE ft-ema", partial(weights.vae, EMA, needed=True), 20),
        Check(FILES, "VAE ft-mse", partial(weights.vae, MSE, needed=False), 20),
        Check(FILES, "dinov2", partial(weights.transformer, "dinov2"), 20),
        Check(FILES, "clip", partial(weights.transformer, "clip"), 20),
        Check(FILES, "reference", partial(weights.reference, REFERENCE_256, needed=True), 20),
        Check(FILES, "reference", partial(weights.reference, REFERENCE_512, needed=False), 20),
        Check(FILES, "imagenet-256", partial(weights.latents, "imagenet-256", needed=True), 20),
        Check(FILES, "imagenet-512", partial(weights.latents, "imagenet-512", needed=False), 20),
        Check(MACHINE, "precision", accelerator.precisions, 30),
        Check(LIBRARIES, "torch.compile", libraries.compiler, 30),
        Check(SMALL, "step", trials.methods, 40),
        Check(SMALL, "sampler", trials.samplers, 30),
        Check(SMALL, "metrics", trials.metrics, 30),
        Check(SMALL, "all-reduce", partial(processes.all_reduce, nproc), 55),
        *(Check(LIBRARIES, package, partial(libraries.library, package), 30) for package in libraries.USED),
        Check(SMALL, "VAE round trip", partial(weights.round_trip, EMA), 30),
    ]
