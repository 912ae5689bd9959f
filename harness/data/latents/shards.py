"""The folder that a store of latents is: shards of float16 arrays, labels, a manifest; how it is made and continued.

N images, n of one shard, C channels, S side, V values per position: 2C for the layout "mean,std" of the posterior, C
for "sample". Values are not scaled: a training image is scale * (mean + std * noise).

While a store is made, description.json says what it will hold, and each finished shard has a sidecar shard-00000.json.
The manifest replaces both and is written last: its presence means that the store is complete.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from harness.data import npy
from harness.records.schema import SCHEMA_VERSION, Record, read_json, read_record, write_record
from harness.system import files
from harness.system.errors import DataError

SHARD_IMAGES = 4096
IMAGENET_IMAGES = 1_281_167  # of the ILSVRC2012 training set
CONTINUE = "Repeat the command that makes the store (`harness data encode` or `harness data import`): it continues."
REMAKE = "Repeat the command that made the store: it makes the damaged parts again."
LAYOUTS = ("mean,std", "sample")
SIDECARS = "shard-[0-9][0-9][0-9][0-9][0-9].json"
SHA256 = r"^[0-9a-f]{64}$"
MOST_CHANNELS, LARGEST_SIDE, MOST_CLASSES = 2**12, 2**12, 2**20  # far beyond any; their product can be allocated


class VaeIdentity(Record):
    id: str
    revision: str | None = None
    sha256: str | None = None  # of its weights


class Description(Record):
    """What a store is going to hold: all of its manifest that is known before the first shard."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["latents"] = "latents"
    name: str
    source: str  # "encoded by dit-harness", "imported from maskdit-lmdb"
    layout: Literal["mean,std", "sample"]
    dtype: Literal["float16"] = "float16"
    channels: int = Field(ge=1, le=MOST_CHANNELS)
    side: int = Field(ge=1, le=LARGEST_SIDE)
    image_size: int = Field(ge=1)  # pixels
    scale: float = Field(default=0.18215, gt=0, allow_inf_nan=False)
    flips: Literal["none", "stored"] = "none"
    crop: str
    vae: VaeIdentity
    num_images: int = Field(ge=1)
    num_classes: int = Field(ge=1, le=MOST_CLASSES)
    class_names: list[str] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(V, S, S) of one stored image."""
        return self.channels * (2 if self.layout == "mean,std" else 1), self.side, self.side

    @model_validator(mode="after")
    def _a_name_per_class(self) -> "Description":
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.num_classes} classes")
        return self


class Shard(Record):
    file: str = Field(pattern=r"^shard-\d{5}\.npy$")
    count: int = Field(ge=1)
    sha256: str = Field(pattern=SHA256)
    flip_file: str | None = Field(default=None, pattern=r"^shard-\d{5}\.flip\.npy$")
    flip_sha256: str | None = Field(default=None, pattern=SHA256)

    @property
    def files(self) -> dict[str, str]:
        """Each file's sha256, the unmirrored images' first."""
        mirrored = {self.flip_file: self.flip_sha256} if self.flip_file and self.flip_sha256 else {}
        return {self.file: self.sha256, **mirrored}


class Sidecar(Record):
    """shard-00000.json: written after the shard's arrays, so its presence means that they are whole."""

    schema_version: int = SCHEMA_VERSION
    shard: Shard
    labels: list[int]

    @model_validator(mode="after")
    def _a_label_per_image(self) -> "Sidecar":
        if len(self.labels) != self.shard.count:
            raise ValueError(f"{len(self.labels)} labels for {self.shard.count} images")
        if not 0 <= min(self.labels) <= max(self.labels) < MOST_CLASSES:
            raise ValueError(f"labels outside 0 to {MOST_CLASSES - 1}")
        return self


class Manifest(Description):
    """manifest.json: written last, so its presence means that the store is complete."""

    class_counts: list[int]
    shards: list[Shard] = Field(min_length=1)
    labels_sha256: str = Field(pattern=SHA256)

    @property
    def description(self) -> Description:
        return Description.model_validate(self.model_dump(include=set(Description.model_fields)))

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Manifest":
        if not self.num_images == sum(shard.count for shard in self.shards) == sum(self.class_counts):
            raise ValueError("num_images, class_counts and the shards' counts differ")
        if len(self.class_counts) != self.num_classes:
            raise ValueError(f"{len(self.class_counts)} class counts for {self.num_classes} classes")
        if [shard.file for shard in self.shards] != [f"{_name(number)}.npy" for number in range(len(self.shards))]:
            raise ValueError("the shards are not numbered from 0 on")
        if any(len(shard.files) != (2 if self.flips == "stored" else 1) for shard in self.shards):
            raise ValueError(f"the shards' files do not fit flips {self.flips!r}")
        return self


# Making a store --------------------------------------------------------------------------------------------------


def begin(folder: Path, description: Description) -> None:
    """Make `folder` a store of this description, or continue one that has it. Raises DataError where they differ."""
    there = _description(folder)
    if there is None:
        with files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_record(folder / "description.json", description)
        return
    differing = [key for key in Description.model_fields if getattr(there, key) != getattr(description, key)]
    if differing:
        values = ", ".join(f"{key} ({getattr(there, key)!r} there)" for key in differing if key != "class_names")
        named = values or "class_names"
        raise DataError(
            f"{folder} already holds other latents: they differ in {named}. "
            "Choose another --out, or remove the folder to make it anew."
        )


def write_shard(
    folder: Path, number: int, values: np.ndarray, labels: np.ndarray, flipped: np.ndarray | None = None
) -> None:
    """Store n images as shard `number`, all or nothing.   values, flipped (n, V, S, S), labels (n,)

    Raises DataError for values that float16 cannot hold, another shape, or standard deviations below zero.
    """
    description = _description(folder)
    if description is None:
        raise DataError(f"{folder} has no description.json: a store begins with one.")
    if (flipped is not None) != (description.flips == "stored"):
        raise DataError(f"shard {number}: flips are {description.flips!r}, which does not fit the arrays given.")
    name = _name(number)
    arrays = {f"{name}.npy": _as_stored(values, description, name)}
    if flipped is not None:
        arrays[f"{name}.flip.npy"] = _as_stored(flipped, description, f"{name} mirrored")
    labels = _as_labels(labels, description.num_classes, name)
    if {len(labels)} != {len(array) for array in arrays.values()}:
        raise DataError(f"{name}: {len(labels)} labels for {[len(array) for array in arrays.values()]} images.")
    written = [(file, npy.save(folder / file, array)) for file, array in arrays.items()]
    (file, sha256), *mirrored = written
    flip_file, flip_sha256 = mirrored[0] if mirrored else (None, None)
    shard = Shard(file=file, count=len(labels), sha256=sha256, flip_file=flip_file, flip_sha256=flip_sha256)
    files.sync(folder)  # before the sidecar that vouches for them
    with files.writing(folder):
        write_record(folder / f"{name}.json", Sidecar(shard=shard, labels=labels.tolist()))


def finished_shards(folder: Path) -> set[int]:
    """Numbers of the shards that need not be made again: each file is there and has its hash. Damaged ones are removed.

    A complete store with a damaged shard becomes an unfinished one, so that the command that made it mends it.
    """
    if (folder / "manifest.json").exists():
        return _reopened(folder)
    finished = set()
    for path in sorted(folder.glob(SIDECARS)):
        try:
            intact = _intact(folder, read_record(path, Sidecar).shard)
        except DataError:
            intact = False
        if intact:
            finished.add(_number(path))
        else:  # the sidecar goes first: without it the arrays count for nothing
            for damaged in (path, path.with_suffix(".npy"), path.with_suffix(".flip.npy")):
                damaged.unlink(missing_ok=True)
    return finished


def finish(folder: Path) -> Manifest:
    """Turn the sidecars into labels and manifest. Raises DataError when shards are missing."""
    if not (folder / "manifest.json").exists():
        description = _description(folder)
        if description is None:
            raise DataError(f"{folder} holds no store of latents that could be finished.")
        sidecars = _all_sidecars(folder, description.num_images)
        labels = np.array([label for sidecar in sidecars for label in sidecar.labels], dtype=np.int64)
        try:
            manifest = Manifest(
                **dict(description),
                class_counts=np.bincount(labels, minlength=description.num_classes).tolist(),
                shards=[sidecar.shard for sidecar in sidecars],
                labels_sha256=npy.save(folder / "labels.npy", labels),
            )
        except ValidationError as error:  # sidecars that do not belong together
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise DataError(f"{folder}: its shards fit no store: {reason}. Remove it and make it anew.") from None
        files.sync(folder)
        with files.writing(folder):
            write_record(folder / "manifest.json", manifest)
        files.sync(folder)
    for left_over in (*folder.glob(SIDECARS), *folder.glob(".shard-*.tmp"), folder / "description.json"):
        left_over.unlink(missing_ok=True)
    return read_manifest(folder)


def _all_sidecars(folder: Path, announced: int) -> list[Sidecar]:
    """Of shards 0, 1, 2, ... without a gap, `announced` images together."""
    sidecars = {_number(path): read_record(path, Sidecar) for path in sorted(folder.glob(SIDECARS))}
    missing = sorted(set(range(max(sidecars, default=0) + 1)) - set(sidecars))
    if missing:
        raise DataError(f"{folder} lacks shard {missing[0]}. {CONTINUE}")
    count = sum(sidecar.shard.count for sidecar in sidecars.values())
    if count < announced:
        raise DataError(f"{folder} holds {count:,} of {announced:,} images. {CONTINUE}")
    if count > announced:
        raise DataError(f"{folder} holds {count:,} images, {announced:,} were announced. Remove it and make it anew.")
    return [sidecars[number] for number in range(len(sidecars))]


def _reopened(folder: Path) -> set[int]:
    """The shards of a complete store that are whole; unless all are, the store becomes unfinished."""
    manifest = read_manifest(folder)
    try:
        labels = read_labels(folder, manifest)
    except DataError:
        whole = set()
    else:
        whole = {number for number, shard in enumerate(manifest.shards) if _intact(folder, shard)}
        if len(whole) == len(manifest.shards):
            return whole
    write_record(folder / "description.json", manifest.description)
    starts = np.cumsum([0, *(shard.count for shard in manifest.shards)])
    for number in whole:
        rows = labels[starts[number] : starts[number + 1]].tolist()
        write_record(folder / f"{_name(number)}.json", Sidecar(shard=manifest.shards[number], labels=rows))
    (folder / "manifest.json").unlink()  # last: until here an interruption leaves the store as it was
    return whole


# Reading one -----------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete store. Raises DataError when it is missing, unfinished, unknown or malformed."""
    path = folder / "manifest.json"
    if not path.exists():
        if (folder / "description.json").exists():
            raise DataError(f"{folder} is not finished. {CONTINUE}")
        raise DataError(
            f"{folder} holds no latents: there is no manifest.json. "
            "`harness data encode` makes them, `harness data import` converts another project's."
        )
    try:
        document = read_json(path)
        ours = document["schema_version"] == SCHEMA_VERSION
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        ours = False  # read_record says what is wrong
    if ours and document.get("kind") != "latents":
        raise DataError(f"{path} is no manifest of latents; point to the folder that `harness data encode` made.")
    if ours and document.get("layout") not in LAYOUTS:
        raise DataError(
            f"{path}: layout {document.get('layout')!r} is unknown; {' or '.join(map(repr, LAYOUTS))} can be read. "
            "'mean,logvar' is not read; import such latents with `harness data import`."
        )
    return read_record(path, Manifest)


def read_labels(folder: Path, manifest: Manifest) -> np.ndarray:  # (N,) int64
    """Every image's class. Raises DataError unless the file is the one the manifest names and fits it."""
    path = folder / "labels.npy"
    if problem := npy.problem(path, (manifest.num_images,), np.dtype(np.int64)):
        raise DataError(f"{path} {problem}. {REMAKE}")
    if files.sha256_of(path) != manifest.labels_sha256:
        raise DataError(f"{path} does not have the hash of the manifest: it was changed or damaged. {REMAKE}")
    labels = np.load(path, allow_pickle=False)
    if labels.min() < 0 or labels.max() >= manifest.num_classes:
        raise DataError(f"{path} holds labels outside 0 to {manifest.num_classes - 1}. {REMAKE}")
    if np.bincount(labels, minlength=manifest.num_classes).tolist() != manifest.class_counts:
        raise DataError(f"{path} holds other numbers of images per class than the manifest. {REMAKE}")
    return labels


def content_problem(values: np.ndarray, description: Description) -> str | None:
    """What is impossible about stored values (n, V, S, S), or None."""
    if not np.isfinite(values).all():
        return "NaN or infinite values"
    if description.layout == "mean,std" and (lowest := values[:, description.channels :].min()) < 0:
        return f"standard deviations below zero ({lowest:.3g}): they look like log-variances"
    return None


def _description(folder: Path) -> Description | None:
    """Of a complete or an unfinished store; None: there is none."""
    if (folder / "manifest.json").exists():
        return read_manifest(folder).description
    path = folder / "description.json"
    return read_record(path, Description) if path.exists() else None


def _name(number: int) -> str:
    return f"shard-{number:05d}"


def _number(sidecar: Path) -> int:
    return int(sidecar.stem.removeprefix("shard-"))


def _intact(folder: Path, shard: Shard) -> bool:
    try:
        return all(files.sha256_of(folder / file) == sha256 for file, sha256 in shard.files.items())
    except OSError:  # missing, or the disk cannot read it
        return False


# Parts -----------------------------------------------------------------------------------------------------------


def _as_stored(values: np.ndarray, description: Description, name: str) -> np.ndarray:
    if values.ndim != 4 or values.shape[1:] != description.shape or not 1 <= len(values) <= SHARD_IMAGES:
        wanted = (f"1 to {SHARD_IMAGES}", *description.shape)
        raise DataError(f"{name} has shape {values.shape}, but {description.layout!r} needs {wanted}.")
    with np.errstate(over="ignore"):  # the next check sees it, and says where
        half = np.ascontiguousarray(values, dtype=np.float16)
    problem = content_problem(half, description)
    if problem and np.isfinite(values).all() and not np.isfinite(half).all():
        problem = "values beyond 65,504, which float16 cannot hold"
    if problem:
        raise DataError(f"{name} holds {problem}; nothing of it was stored.")
    return half


def _as_labels(labels: np.ndarray, num_classes: int, name: str) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{name}: labels are {labels.dtype} of shape {labels.shape}, not whole numbers in one row.")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise DataError(f"{name}: label {outside[0]} is outside 0 to {num_classes - 1}. Check the number of classes.")
    return labels.astype(np.int64)
