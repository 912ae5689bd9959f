"""A run as data: a recipe resolved with its overrides, validated field by field, and named by its content.

harness.recipes reads the recipes. A method's own settings are its knobs, whose type is the Config class of
baselines/<method>.py.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from harness.recipes.naming import DIGEST_LENGTH, identity
from harness.recipes.settings import BlockSettings, FlowSettings, Settings
from harness.system.errors import DataError, UsageError, one_line, unknown
from harness.system.files import read_limited

LARGEST_CONFIG = 1 << 18  # bytes; a run's has 3,000
MOST_VALUES = 100_000  # an alias counts as often as it is used: a kilobyte of them can stand for more than memory holds
DEEPEST = 50  # values within values
DEEPEST_BY_C = 500  # nested values that libyaml's loader takes for certain; thousands would crash the process
LARGEST_SIZE = 4096  # pixels a side
LONGEST_COUNT = 40  # characters
SHOWN_CHARACTERS = 200  # how much of a value or a reason a message shows

ADDITIONS = "additions"  # the knob that names what is added to a method, where anything is

Decay = Annotated[float, Field(ge=0, lt=1)]


class Knobs(Settings):
    """A method's own settings. Subclass it as Config in baselines/<name>.py, each default with its source."""

    @property
    def input_patches(self) -> str:
        """The share of an image's patches that a training step asks for, as the SD-DiT paper labels its Fig. 3.

        Nominal, 1 - mask ratio: of 256 tokens or 16, the number kept is rounded down.
        """
        return "100%"


class NetworkSize(Settings):
    """The size of a network: patches of `patch` x `patch`, blocks `depth` deep and `width` wide."""

    patch: int = Field(ge=1)
    width: int = Field(ge=4)
    depth: int = Field(ge=1)
    num_heads: int = Field(ge=1)


class InputShape(Settings):
    """What a network sees: latents, or small images."""

    channels: int = Field(ge=1)
    side: int = Field(ge=2)
    num_classes: int = Field(ge=1)


class Protocol(Settings):
    """What methods must share before their speeds and distances may stand on one axis."""

    data: str  # a name, or the folder of a latent store or (online-vae) of images
    pipeline: Literal["cached", "online-vae"]  # online-vae: every step encodes its images, as DiT and MDT published
    vae: str | None  # the VAE that made the latents, or encodes in the step; null: the one the data names, if any
    size: int | None = Field(None, ge=2, le=LARGEST_SIZE)  # images are brought to this side; null: that they have
    batch_size: int = Field(ge=1)  # all processes together take so many
    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    betas: tuple[Decay, Decay]
    weight_decay: float = Field(ge=0, allow_inf_nan=False)
    label_dropout: float = Field(ge=0, lt=1)
    ema_decay: Decay
    ema_warmup: bool
    flips: Literal["none", "random"]  # random: each image of a batch is mirrored with probability 1/2
    precision: Literal["fp32", "tf32", "bf16"]  # matrix products use it; weights, their average and losses stay fp32
    compile: bool | Literal["auto"]  # auto: not where the run is too short or compiling fails; the result says so
    optimizer: str = "adamw"  # one of harness.model.optimizers.OPTIMIZERS
    clip: float | None = Field(None, gt=0, allow_inf_nan=False)  # largest norm of the whole gradient; null: any
    warmup: int = Field(0, ge=0)  # first steps, in which the learning rate grows from 0 along a line
    cooldown: int = Field(0, ge=0)  # last steps, in which it falls to 0 along a line; between the two it is constant


class Execution(Settings):
    """How a run is carried out. Nothing here changes the mathematics, so none of it is part of a run's name."""

    log_every: int = Field(ge=1)  # steps
    checkpoint_every: int = Field(ge=1)  # steps
    keep_last: int = Field(ge=2)  # newest checkpoints: one, and one before it in case the newest is damaged
    keep_every: int | None = Field(ge=1)  # steps; milestones are kept for good
    micro_batch: int | None = Field(ge=1)  # images that one process takes through the network at once; null: its share
    residency: Literal["host", "gpu"]  # where the training set lies: read ahead from the host, or on the GPU whole
    # Each of these was added later and has a default, so that the run folders of before can still be opened.
    activation_checkpointing: bool = False  # blocks compute their insides again in the backward pass, and keep none
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = "auto"  # kernel; auto: as torch chooses
    cuda_graphs: bool = False  # a compiled step is replayed, not launched kernel by kernel
    sample_compile: bool = False  # compile the network that is sampled
    deterministic: bool = False  # only operations that give the same bits every time, or none
    evaluate_every: int | None = Field(None, ge=1)  # steps; milestones are evaluated too, after training; null: none

    @model_validator(mode="after")
    def _milestones_are_kept(self) -> Self:
        every, kept = self.evaluate_every, self.keep_every
        if every is not None and (kept is None or kept % self.checkpoint_every or every % kept):
            raise ValueError(
                f"such that every milestone it evaluates is kept: evaluate_every {self.evaluate_every} a multiple of "
                f"keep_every ({self.keep_every}), and that of checkpoint_every ({self.checkpoint_every})"
            )
        return self


class Sampling(Settings):
    """How images are drawn. Whatever changes an image is part of a run's name."""

    sampler: str  # one of harness.model.samplers.SAMPLERS
    num_steps: int = Field(ge=2, le=100_000)
    guidance_scale: float | None = Field(ge=1, allow_inf_nan=False)
    guidance_channels: int | None = Field(ge=1)  # the first so many; null: all
    guidance_interval: tuple[float, float] | None  # guided only at noise levels low < sigma <= high; null: at all
    guidance_power: float | None = Field(gt=0)  # how MDT's scale grows from 1 with the steps; null: constant
    sde_diffusion: Literal["2t", "t"] = "2t"  # w of euler-maruyama
    sde_last_step: float = Field(0.04, gt=0, le=0.5)  # of euler-maruyama, in time; it adds no noise

    @field_validator("guidance_interval")
    @classmethod
    def _of_guidance(cls, value: tuple[float, float] | None, info: ValidationInfo) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1]:
            raise ValueError("null or two noise levels, the lower one first, like [0.28, 5.42]")
        if value is not None and info.data.get("guidance_scale") is None:
            raise ValueError("null: without a guidance scale nothing is guided; give --cfg-scale too")
        return value


class EvaluationPlan(Settings):
    """What the run is measured with after training, and on how many images."""

    features: str
    reference: str  # "data": the training images themselves; else an .npz as ADM's, by path or name in the data folder
    metrics: tuple[str, ...] = Field(min_length=1)
    num_images: int = Field(ge=50, le=10_000_000)  # the memory holds all their classes
    label_rule: Literal["random", "balanced"]
    also_first: tuple[Annotated[int, Field(ge=50)], ...] = ()  # metrics of the first so many of the images, too
    seed: int = Field(ge=0)
    sample_batch: int = Field(ge=1)
    sample_precision: Literal["fp32", "bf16"]  # the sampled network computes in it; the sampler's state stays float
    decode_precision: Literal["fp32", "tf32", "bf16"] = "fp32"  # the VAE that turns latents into pixels computes in it
    untrained: bool  # also measure the network before its first step


# The name of a folder or a module, so nothing that leads out of it.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class RunConfig(Settings):
    """Everything that decides a run's weights, images and metrics. `harness run --config` on its YAML repeats it."""

    recipe: Name
    method: Name
    size: Name
    seed: int = Field(ge=0)
    formulation: str  # one of harness.model.formulations.FORMULATIONS
    flow: FlowSettings = FlowSettings()  # at its defaults under any other formulation
    input: InputShape  # a recipe may leave it to the data set (null); a resolved run has it
    network: NetworkSize
    block: BlockSettings = BlockSettings()
    knobs: SerializeAsAny[Knobs]
    protocol: Protocol
    sampling: Sampling
    evaluation: EvaluationPlan
    execution: Execution

    @property
    def run_id(self) -> str:
        """Names the run by what decides its result, the seed included; never by the clock."""
        return f"seed{self.seed}-{self.sha256[:DIGEST_LENGTH]}"

    @property
    def sha256(self) -> str:
        """Hash of what decides the result, the seed included."""
        return identity(self.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """config.yaml: every setting, in the order of the sections."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


# Overrides and validation ----------------------------------------------------------------------------------------


def parse_count(text: str, name: str = "steps") -> int:
    """'400k', '1.5M', '50_000' or '250' as a whole number. Raises UsageError for anything else or anything below 1."""
    scale = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    digits = text[:-1] if scale > 1 else text
    try:
        with localcontext(prec=2 * LONGEST_COUNT):  # exact: 1.001M is 1,001,000, and 2**53 + 1 is odd
            value = Decimal(digits.replace("_", "")[: LONGEST_COUNT + 1]) * scale
            whole = 1 <= value < 2**63 and value == value.to_integral_value()
    except ArithmeticError:  # no number, or one beyond Decimal's own bounds
        whole = False
    if not whole or len(text) > LONGEST_COUNT:
        raise UsageError(
            f"{name} is {shortened(text)}; it must be a whole number of at least 1, like 250, 400k or 1.5M."
        )
    return int(value)


def apply_overrides(document: dict[str, Any], assignments: Iterable[str], knob_names: Iterable[str]) -> dict[str, Any]:
    """The recipe with each `key=value` applied. A key is a full path (protocol.steps) or an unambiguous last part."""
    document = json.loads(json.dumps(document))
    paths = {f"knobs.{name}" for name in knob_names} | {path for path, _ in leaves(document)}
    fixed = {"recipe", "method", "size"}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise UsageError(f"--set {assignment!r} has no '='; write --set key=value, like --set mask_ratio=0.3.")
        if key == "input":  # a section that may be left open as a whole
            document["input"] = _parsed(key, text)
            continue
        matches = [p for p in paths - fixed if p == key or p.rsplit(".", 1)[-1] == key]
        if key in matches:
            matches = [key]
        if not matches:
            names = {p if "." in key else p.rsplit(".", 1)[-1] for p in paths - fixed}
            raise unknown("setting", key, names, see=f"`harness recipes show {document['recipe']}` lists all")
        if len(matches) > 1:
            raise UsageError(f"--set {key} could mean {' or '.join(sorted(matches))}; write the full name.")
        value = _parsed(key, text)
        *parents, last = matches[0].split(".")
        target = document
        for parent in parents:
            target = target[parent]
        target[last] = value
    return document


def _parsed(key: str, text: str) -> Any:
    try:
        return plain_values(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        known = f"cannot be taken: it has {one_line(error, SHOWN_CHARACTERS)}"
        why = "is not valid YAML" if isinstance(error, yaml.YAMLError) else known
        raise UsageError(f"--set {key}: the value {shortened(text)} {why}.") from None


def leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a nested document by its path, like "protocol.steps". An empty section has none."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def validate(document: dict[str, Any], knobs: type[Knobs]) -> RunConfig:
    """The document as a RunConfig with this method's knobs. Raises UsageError naming field, value and range."""
    document = dict(document)
    document.pop("schema_version", None)
    try:
        document["knobs"] = knobs.model_validate(document.get("knobs") or {})
        return RunConfig.model_validate(document)
    except ValidationError as error:
        raise UsageError(_explain(error)) from None


@contextmanager
def as_typed(assignments: Sequence[str]) -> Iterator[None]:
    """In a UsageError of this block, a setting typed as `depth=0` is called so: "depth (network.depth) is 0"."""
    try:
        yield
    except UsageError as error:
        said = str(error)
        for key in {assignment.partition("=")[0] for assignment in assignments} - {""}:
            said = re.sub(rf"(?<![\w.])((?:\w+\.)+{re.escape(key)}(?:\.\d+)?)(?= is )", rf"{key} (\1)", said)
        raise UsageError(said) from None


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        field = ".".join(map(str, problem["loc"])) or "the configuration"
        message = expected(problem["msg"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{field} is not a setting of this run.")
        elif problem["type"] == "missing":
            lines.append(f"{field} is missing.")
        else:
            lines.append(f"{field} is {shortened(problem['input'])}; it must be {message}.")
    return " ".join(lines)


def expected(message: str) -> str:
    """What a value must be, in pydantic's words, without how it tried to read one."""
    wanted = message.removeprefix("Input should be ").removeprefix("Value error, ")
    wanted = wanted.partition(", unable to")[0].partition(", got a number")[0]
    kinds = (
        ("a valid number", "a number"),
        ("a valid integer", "a whole number"),
        ("a valid boolean", "true or false"),
    )
    for long, short in (*kinds, ("a valid string", "a text"), ("a valid list", "a list")):
        wanted = wanted.replace(long, short)
    return wanted


def shortened(value: object) -> str:
    """A value as Python writes it, cut where a message has no more room: what is wrong may be very long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def read_config(path: Path) -> dict[str, Any]:
    """A config.yaml as a plain document, for validate. Raises DataError when it cannot be read as one."""
    try:
        document = plain_values(read_limited(path, LARGEST_CONFIG).decode())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as a configuration: {one_line(error, SHOWN_CHARACTERS)}.") from None
    if not isinstance(document, dict) or not isinstance(document.get("method"), str):
        raise DataError(
            f"{path} is not a run configuration: it has no 'method'. Point --config at a run's config.yaml."
        )
    return document


def plain_values(text: str) -> Any:
    """YAML of texts, numbers, truth values, null, lists and mappings; nothing in it is executed.

    Raises yaml.YAMLError, ValueError or RecursionError for anything else, and for more than memory should hold.
    """
    deep = sum(map(text.count, "[{-?")) > DEEPEST_BY_C  # libyaml reads a thousand runs' in a second, Python in ten
    loader = yaml.SafeLoader if deep else getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.load(text, Loader=loader)
    except (AttributeError, IndexError, KeyError, TypeError) as error:  # PyYAML's own errors: `!!int ''`, `!!bool x`
        raise ValueError(f"a value that its tag does not fit ({type(error).__name__})") from None
    refuse_strange(document)
    return document


def refuse_strange(document: object, most_values: int = MOST_VALUES) -> None:
    """ValueError for values that are not plain, too many, too deep or too large. By levels: it must not recurse."""
    level, seen = [document], 0
    for _ in range(DEEPEST):
        seen += len(level)
        if seen > most_values:
            raise ValueError(f"more than {most_values:,} values, counting each alias as often as it is used")
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                if not all(isinstance(key, str) for key in value):
                    raise ValueError("a name that is no text; put it in quotes")
                _refuse_halves("".join(value))
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                _refuse_halves(value)
            elif isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError("a whole number beyond 64 bits; the largest is 9223372036854775807")
            elif not isinstance(value, int | float | None):
                raise ValueError(f"a {type(value).__name__}; put a text in quotes")
        level = below
        if not level:
            return
    raise ValueError(f"values within values, more than {DEEPEST} deep")


def _refuse_halves(text: str) -> None:
    """ValueError for half a letter, a surrogate, which can be neither printed nor written."""
    if not text.isascii():
        text.encode()
