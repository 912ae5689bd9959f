"""Published checkpoints as run folders, so that they can be sampled and evaluated without training."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import baselines
import harness
from harness.planning.plan import resolve
from harness.recipes.config import RunConfig
from harness.recipes.reading import load_recipe
from harness.records.schema import Import, write_atomically, write_record
from harness.runs import diffusers_layout, published_weights
from harness.system import locks
from harness.system.errors import DataError
from harness.system.files import sha256_of
from harness.system.progress import PlainProgress
from harness.training import checkpoint

RECORD = "import.json"


def as_published(recipe: str, assignments: Sequence[str]) -> RunConfig:
    """The recipe with these settings, used as the official code of its method uses its weights.

    Guidance of the first channels alone is left out where the input has no more than these: all are guided then.
    Raises UsageError for a method of which no checkpoint can be read, and as planning.plan.resolve.
    """
    official = published_weights.official_of(load_recipe(recipe).document["method"])
    channels = resolve(recipe, [*assignments]).input.channels
    guided = [f"sampling.guidance_channels={number}" for number in range(channels, channels + 4)]
    return resolve(recipe, [*(setting for setting in official.settings if setting not in guided), *assignments])


def import_checkpoint(path: Path, cfg: RunConfig, out: Path) -> Path:
    """The run folder made of a published checkpoint: `cfg`'s network with the weights in the file `path`.

    `path` may also be a folder that diffusers saved. Raises DataError when the file is not what `cfg` describes, key by
    key, when the folder cannot be written, and while another command uses it.
    """
    file = diffusers_layout.weights_file(path)
    official = published_weights.read(file, cfg.method)
    if diffusers_layout.recognised(official):
        diffusers_layout.require_same_network(file, cfg)
    network = baselines.build(cfg).network
    network.load_state_dict(published_weights.convert(cfg.method, network, official))
    sha256 = sha256_of(file)
    folder = out / cfg.recipe / f"imported-{sha256[:10]}-{cfg.sha256[:6]}"  # the weights, and how they are used
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}. Choose another --out.") from error
    record = Import(
        harness_version=harness.__version__,
        file_name=file.name,
        file_sha256=sha256,
        method=cfg.method,
        config_sha256=cfg.sha256,
        vae=cfg.protocol.vae,
        imported_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    note = PlainProgress("import-checkpoint").note
    with locks.run_folder(folder, "choose another --out", alone=True, note=note):
        checkpoint.save_ema(folder / "checkpoints", 0, network.state_dict(), cfg.sha256)
        write_atomically(folder / "config.yaml", cfg.to_yaml())
        write_record(folder / RECORD, record)
    return folder
