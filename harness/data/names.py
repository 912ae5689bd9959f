"""What the data sets are called, and where they are looked for. Nothing here imports torch, which takes seconds."""

import os
from pathlib import Path

import platformdirs

from harness.system.errors import DataError, unknown

SYNTHETIC = "synthetic"
MADE_HERE = ("digits", SYNTHETIC)
DOWNLOADED = ("cifar10", "fashion-mnist", "mnist")  # harness.data.images.named.SETS has their files
LATENT_SETS = ("imagenet-256", "imagenet-512")  # folders of latents in the data folder, made by `harness data encode`
ALL = tuple(sorted((*MADE_HERE, *DOWNLOADED, *LATENT_SETS)))  # tests/data/test_sources.py compares with what loads them


def data_folder() -> Path:
    """Where data sets are looked for by name: $HARNESS_DATA, or the user's data folder."""
    return Path(os.environ.get("HARNESS_DATA") or platformdirs.user_data_path("dit-harness"))


def require(name: str) -> None:
    """Raises UsageError or DataError for what is no data set's name, no file and no folder; nothing of it is read."""
    if not name.strip():
        raise unknown("data set", name, ALL)
    if name in LATENT_SETS:
        folder = data_folder() / name
        if not folder.is_dir():
            raise DataError(
                f"the latents of {name} are not in {folder}. Make them with `harness data encode IMAGENET_DIR --size "
                f"{name.removeprefix('imagenet-')} --out {folder}`, or give another folder with --data (or "
                "$HARNESS_DATA for all of them)."
            )
    elif name not in ALL and not Path(name).exists():
        known = f"Give a folder of images or of latents, an .npz of images, or one of: {', '.join(ALL)}"
        if os.sep in name or Path(name).suffix == ".npz":
            raise DataError(f"there is no folder or file {name}. {known}.")
        raise unknown("data set or folder", name, ALL, see=known)
