"""The documents of a run folder as types. Everything that writes or reads one goes through here.

runs/<recipe>/<run-id>/ holds config.yaml (see recipes.config.RunConfig), manifest.json, metrics.jsonl, events.jsonl,
checkpoints/, samples/, evaluations/<name>.json and, written last, result.json. A record ends with the sha256 of the
rest of it: a digit that changed on the disk would otherwise be read as another measurement. Records of older versions
have no hash and are read as they are. To change a record by hand, remove its hash.
"""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from harness.recipes.config import DEEPEST, SHOWN_CHARACTERS, refuse_strange
from harness.recipes.naming import digest
from harness.system.errors import DataError
from harness.system.files import read_limited, whole_file

SCHEMA_VERSION = 1
EXPORT_RECORD = "export.json"
SELF = "sha256"  # a record's last key
LARGEST_RECORD = 2**26  # bytes; a store's manifest of ImageNet takes 100 kB
LARGEST_LOG = 2**28  # bytes of a .jsonl file; 400,000 steps, each logged, take half of it
LAST_LINES = 1 << 16  # bytes of a log that surely hold its last lines
R = TypeVar("R", bound="Record")


MemoryKind = Literal["process RSS", "device allocated"]  # how a peak was measured


Shown = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]  # no control characters, since pictures show it


class Record(BaseModel):
    """A document of a run folder, as JSON. A key that it does not name is an error, and nothing can be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Device(Record):
    """The hardware a run used. Never a host or user name."""

    name: Shown  # "NVIDIA H200" or the processor's model name
    kind: Literal["cpu", "cuda"]
    count: int
    threads: int  # CPU threads torch computes with
    memory_bytes: int | None = None
    driver: str | None = None
    cuda: str | None = None

    @property
    def num_devices(self) -> int:
        """GPUs; a machine's processor is one device, however many cores it has."""
        return max(self.count, 1) if self.kind == "cuda" else 1


class HeldOut(Record):
    """The images of a data set that the run did not train on."""

    by: str  # says in words which images they are
    num_images: int
    sha256: str


class DataIdentity(Record):
    """What was trained on: the name, and a hash of the content."""

    name: Shown
    sha256: str
    num_images: int
    real: bool  # False: drawn from a random generator, good for speed only
    vae: str | None = None  # between pixels and latents; None: the network sees pixels
    vae_sha256: str | None = None  # its weights'
    fitting: str | None = None  # how images were brought to the side of the input; None: they are as they were
    held_out: HeldOut | None = None  # None: all images were trained on


class Import(Record):
    """import.json: where a published checkpoint comes from that was trained elsewhere."""

    schema_version: int = SCHEMA_VERSION
    harness_version: str
    file_name: str
    file_sha256: str
    method: str
    config_sha256: str
    vae: str | None
    imported_at: str  # UTC, ISO 8601


class Manifest(Record):
    """Where a run comes from: enough to repeat it, nothing that identifies a person or a machine's owner."""

    schema_version: int = SCHEMA_VERSION
    harness_version: str
    git_commit: str | None
    git_diff_sha256: str | None  # changed and untracked files'; None: there are none, or it is no git checkout
    python: str
    platform: str
    packages: dict[str, str]
    device: Device
    precision: dict[str, bool | str]
    seed: int
    config_sha256: str
    data: DataIdentity
    frozen: dict[str, str] = {}  # sha256 of the pretrained weights that the method uses and does not train
    world_size: int = 1  # processes
    command: str
    started_at: str  # UTC, ISO 8601
    allocator: Literal["default", "kept"] | None = None  # of the host's memory; None: an older version did not say


class EvaluationProtocol(Record):
    """Every condition that changes a metric's value. Of images that came in a file, how they were made is not known."""

    formulation: str | None
    sampler: str | None
    num_steps: int | None
    nfe: int | None  # network evaluations per image, those of guidance not counted
    guidance_scale: float | None
    guidance_channels: int | None  # None: all channels are guided
    guidance_interval: tuple[float, float] | None = None  # the noise levels that are guided; None: all
    guidance_power: float | None = None  # how the scale grows with the steps (MDT); None: it is constant
    sde_diffusion: str | None = None  # w of euler-maruyama; None: 2t, or another sampler
    sde_last_step: float | None = None  # of euler-maruyama; None: 0.04, or another sampler
    num_images: int
    label_rule: str | None
    uint8_rule: str | None
    vae: str | None
    vae_sha256: str | None = None
    sample_precision: str | None = None  # precision in which the network was sampled
    decode_precision: str | None = None  # the VAE's decoder computes in it; None: there is no VAE
    features: Shown
    features_sha256: str
    features_batch: int | None = None  # images the feature network sees at once
    features_precision: str = "fp32"
    features_device: Literal["cpu", "cuda"] | None = None
    grey_channel: Literal["repeated"] | None = None  # grey images went into a network of three channels
    features_accuracy: float | None = None  # of the feature network "own": share of held-out images it classifies right
    reference: Shown
    reference_sha256: str
    reference_images: int | None  # behind the reference's statistics; None: its file does not say
    reference_points: int | None = None  # images behind precision and recall; None: there are none
    seed: int | None

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later conditions that are None: the names of evaluations are hashes of their conditions."""
        later = ("grey_channel", "features_accuracy", "sde_diffusion", "sde_last_step")
        return {name: value for name, value in serialize(self).items() if value is not None or name not in later}


class CrossCheck(Record):
    """One metric computed a second time from the same features, by another package."""

    metric: str
    ours: float
    theirs: float
    difference: float
    by: str


class DenoiserError(Record):
    """The averaged network as a denoiser D(x; sigma) of held-out images, each with the same noise for every run."""

    data: Shown
    data_sha256: str  # of the held-out images
    num_images: int
    seed: int  # of the choice of images and of the noise
    weighting: str
    error: float
    standard_error: float  # over images, not over training seeds
    sigmas: list[float]
    by_sigma: list[float]
    standard_errors: list[float]
    seconds: float


class LinearProbe(Record):
    """How well a linear map of each block's output names the class of held-out images: a row a block, in order."""

    data: Shown
    data_sha256: str  # of the held-out images
    trained_on_sha256: str
    num_trained_on: int
    num_images: int
    seed: int
    penalty: str
    sigmas: list[float]
    blocks: list[str]
    accuracy: list[list[float]]  # by block, then by sigma
    seconds: float


class Evaluation(Record):
    """evaluations/<name>.json: metrics of one set of generated images. A metric's name carries N and its features."""

    schema_version: int = SCHEMA_VERSION
    name: str
    step: int | None  # training steps behind the network; None: the images came in a file
    weights: Literal["ema", "raw"] | None
    weights_sha256: str | None = None
    samples_sha256: str | None = None  # the images' pixels', independent of their file format
    metrics: dict[str, float]
    standard_errors: dict[str, float] = {}
    also_first: list[int] = []  # metrics of the first so many of the images, too
    cross_checks: list[CrossCheck] = []
    denoiser: DenoiserError | None = None  # None: the data have no held-out images, or an older version measured
    probe: LinearProbe | None = None
    notes: list[str] = []  # what was left out, and why
    protocol: EvaluationProtocol
    harness_version: str | None = None
    packages: dict[str, str] = {}
    sample_execution: str | None = None  # "eager", "compiled" or "compiled, CUDA graphs"; None: nothing was drawn
    seconds: float
    stage_seconds: dict[
        str, float
    ] = {}  # parts of it by stage, in the main process; stages not gone through are absent


class Result(Record):
    """result.json: written last, so its presence means the run is complete."""

    schema_version: int = SCHEMA_VERSION
    recipe: str
    run_id: str
    method: str
    size: str
    seed: int
    steps: int
    images_seen: int
    input_patches: str  # nominal share of the patches a training step reads, as the paper labels Fig. 3: "100% + 70%"
    steps_per_sec: float | None  # mean over the timed window; None when the run is all warm-up
    steps_per_sec_sd: float | None  # standard deviation over the windows of metrics.jsonl, each of log_every steps
    timed_steps: int
    peak_memory_bytes: int | None
    peak_memory_kind: MemoryKind
    params: int  # the sampled network's
    gmacs_forward: float  # per image, one forward of the sampled network
    gmacs_step: float  # per image, one training step of the method (forward and backward)
    evaluations: dict[str, Evaluation]
    wall_seconds: float
    device: Device
    world_size: int
    compiled: bool | None = None  # whether the step really was, as it was asked for; None: an older version did not say
    attention: str | None = None  # the kernel of the blocks' attention
    notes: list[str] = []  # how the run was carried out otherwise than asked
    complete: bool = True


class Export(Record):
    """export.json: what an exported network is and what was measured of it. None means that it is not recorded."""

    schema_version: int = SCHEMA_VERSION
    harness_version: str  # the version that exported it
    run: str  # "<recipe>/<run id>"
    weights: Literal["ema", "raw"]
    step: int  # training steps behind the weights; 0 for an imported network, whose training is not known
    weights_sha256: str  # names' and values', as evaluations record it; independent of the file format
    config_sha256: str  # that of config.yaml beside it
    run_config_sha256: str  # that of the run's config.yaml: another one where it named folders of the machine it ran on
    license: str  # an identifier; "unknown" if none was chosen
    manifest: Manifest | None = None
    imported: Import | None = None
    result: Result | None = None  # without its evaluations
    evaluations: dict[str, Evaluation]  # those that measured these weights
    files: dict[str, str]  # name: sha256, of every other file of the export

    @property
    def vae(self) -> tuple[str | None, str | None]:
        """Name and hash of the VAE between pixels and the network, None where there is none or it has no hash."""
        if self.manifest:
            return self.manifest.data.vae, self.manifest.data.vae_sha256
        return (self.imported.vae if self.imported else None), None


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` so that a reader, or a crash, sees the old document or the new one, never a part."""
    try:
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None  # a full disk names no file


def write_record(path: Path, record: Record) -> None:
    """Write it whole or not at all, with a hash of itself. Raises DataError when the disk refuses."""
    document = json.loads(record.model_dump_json())
    write_atomically(path, json.dumps({**document, SELF: digest(document)}, indent=2, ensure_ascii=False) + "\n")


def read_record(path: Path, kind: type[R]) -> R:
    """The document at `path`. Raises DataError when it is missing, torn, changed, of another version or malformed."""
    try:
        document = read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing.") from None
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: not UTF-8, not JSON, a number beyond all bounds
        raise DataError(f"{path} cannot be read: {error}.") from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{path} has schema version {version!r}; this version of the harness reads {SCHEMA_VERSION}.")
    sha256 = document.pop(SELF, None)
    try:
        record = kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))[:SHOWN_CHARACTERS]
        raise DataError(f"{path} is not a valid {kind.__name__}: {field}: {first['msg']}.") from None
    if sha256 not in (None, digest(document)):
        raise DataError(f"{path} was changed or damaged: it differs from the sha256 written with it.")
    return record


def record_or_none(path: Path, kind: type[R]) -> R | None:
    """The document at `path`; None where it is missing or damaged."""
    try:
        return read_record(path, kind)
    except DataError:
        return None


def read_json(path: Path, most: int = LARGEST_RECORD) -> Any:
    """What parse_json makes of a file of up to `most` bytes. Raises OSError, or as parse_json."""
    return parse_json(read_limited(path, most).decode())


def parse_json(text: str) -> Any:
    """The value of a JSON text. ValueError or RecursionError for what is none, or holds what no record of ours does.

    That is whole numbers beyond 64 bits, halves of letters, and values within values within values.
    """
    value = _DECODER.decode(text)
    if text.count("[") + text.count("{") > DEEPEST or _HALVES.search(text):
        refuse_strange(value, most_values=len(text))
    return value


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**63:
        raise ValueError("a whole number beyond 64 bits")
    return value


_DECODER = json.JSONDecoder(parse_int=_whole)
_HALVES = re.compile(r"\\ud[89a-f]", re.IGNORECASE)  # half a letter, as JSON escapes it


def read_lines(path: Path, *, last_bytes: int | None = None) -> tuple[list[dict[str, Any]], int]:
    """Objects of a .jsonl file in order, and how many damaged lines were left out. A missing file is empty.

    Raises OSError when it cannot be read, ValueError when it is no file or has more than LARGEST_LOG bytes. With
    `last_bytes` only the whole lines within the last so many bytes are read.
    """
    if not path.exists():
        return [], 0
    objects, damaged = [], 0
    for line in _tail(path, last_bytes).decode(errors="replace").splitlines():
        try:
            value = parse_json(line)
        except (ValueError, RecursionError):
            damaged += 1
            continue
        if isinstance(value, dict):
            objects.append(value)
        else:
            damaged += 1
    return objects, damaged


def _tail(path: Path, last_bytes: int | None) -> bytes:
    if last_bytes is None:
        return read_limited(path, LARGEST_LOG)
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= last_bytes:
            file.seek(0)
            return file.read()
        file.seek(size - last_bytes)
        return file.read().partition(b"\n")[2]  # the first line may be cut


def append_line(path: Path, document: dict[str, Any]) -> None:
    """Add one object to a .jsonl file. A torn last line, left by a crash, is ended first so that it spoils no other."""
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write(json.dumps(document).encode() + b"\n")
