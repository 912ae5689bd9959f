"""What the doctor checks, in the order in which it is carried out and shown."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checks.doctor import environment, folders, libraries, machine, processes, trials, weights
from harness.checks.doctor.examination import Check
from harness.checks.doctor.words import in_brief
from harness.system.files import cache_folder

if TYPE_CHECKING:
    from harness.system.settings import Known

ENVIRONMENT, MACHINE, FOLDERS, LIBRARIES = "environment", "machine", "folders", "libraries"
FILES, SMALL = "weights, references and data of the paper's scale", "a run in small"

EMA, MSE = "stabilityai/sd-vae-ft-ema", "stabilityai/sd-vae-ft-mse"
FOR_VIT = "For --features {}: pip install 'dit-harness[vit]'. "
REFERENCE_256, REFERENCE_512 = "VIRTUAL_imagenet256_labeled.npz", "VIRTUAL_imagenet512.npz"


def checks(nproc: int, known: "Known") -> list[Check]:
    """Every check. `nproc` processes meet in the last one; `known` are the options that settings files may set."""
    return [
        Check(ENVIRONMENT, "Python", environment.python),
        Check(ENVIRONMENT, "harness", environment.version),
        Check(ENVIRONMENT, "packages", environment.packages),
        Check(ENVIRONMENT, "settings", partial(environment.configuration, known)),
        Check(MACHINE, "cores", machine.cores),
        Check(MACHINE, "memory", machine.memory),
        Check(MACHINE, "shared memory", machine.shared_memory),
        Check(MACHINE, "open files", machine.open_files),
        Check(MACHINE, "allocator", machine.allocator),
        Check(MACHINE, "torch", machine.torch_build),
        Check(MACHINE, "bfloat16", machine.bfloat16),
        Check(MACHINE, "GPU", machine.gpus),
        Check(FOLDERS, "runs/", partial(folders.look_at, Path("runs"), "Choose another folder with --out")),
        Check(FOLDERS, "cache", partial(folders.look_at, cache_folder(), "Set HARNESS_CACHE to another folder")),
        Check(FOLDERS, "data", folders.data),
        Check(FOLDERS, "downloads", folders.downloads),
        Check(LIBRARIES, "torchvision", libraries.torchvision),
        *(Check(LIBRARIES, package, partial(libraries.library, package)) for package in libraries.USED),
        Check(FILES, "Inception", partial(weights.published, "inception", "no FID yet")),
        Check(FILES, "VAE ft-ema", partial(weights.published, EMA, "no images of latents yet")),
        Check(FILES, "VAE ft-mse", partial(weights.published, MSE)),
        Check(FILES, "dinov2", partial(weights.published, "dinov2", how=FOR_VIT.format("dinov2"))),
        Check(FILES, "clip", partial(weights.published, "clip", how=FOR_VIT.format("clip"))),
        Check(FILES, "reference 256", partial(weights.reference, REFERENCE_256, "no FID of ImageNet yet")),
        Check(FILES, "reference 512", partial(weights.reference, REFERENCE_512)),
        Check(FILES, "imagenet-256", partial(weights.latents, "imagenet-256", "no training on ImageNet yet")),
        Check(FILES, "imagenet-512", partial(weights.latents, "imagenet-512")),
        *_of_methods(),
        Check(SMALL, "all-reduce", partial(processes.all_reduce, nproc)),
    ]


def _of_methods() -> list[Check]:
    """A step of every method that can be loaded, and a failure for each broken package that brings one."""
    try:
        import baselines
        from harness.recipes import plugins
        from harness.recipes import reading as recipes

        broken, built_in = recipes.broken(), plugins.built_in()
        names = [name for name in baselines.names() if name not in broken or name in built_in]
    except Exception as error:  # a package that this needs is broken: the other checks say which
        return [Check(SMALL, "methods", partial(trials.broken, in_brief(error)))]
    return [
        *(Check(SMALL, f"step {name}", partial(trials.step, name)) for name in names),
        *(Check(SMALL, f"plug-in {name}", partial(trials.broken, why)) for name, why in broken.items()),
    ]
