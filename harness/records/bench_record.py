"""bench.json: training steps timed side by side, and how each was made.

The parts of a floor are seconds a step: the least that arithmetic, or moving bytes, can take.
"""

from typing import Any

from pydantic import Field

from harness.records.schema import SCHEMA_VERSION, Device, Record


class Window(Record):
    """Consecutive steps of one contender, timed as a whole; the contenders take turns, one window each a round."""

    steps: int = Field(ge=1)
    seconds: float = Field(gt=0, allow_inf_nan=False)
    data_seconds: float  # how long the host waited for data meanwhile
    joules: float | None = None


class Spread(Record):
    """Where one figure lies over the windows."""

    median: float
    lowest: float
    highest: float


class Floor(Record):
    """The least time of a step: the larger of the two, since they can overlap. None where it is not known."""

    of: str  # "data sheet of H200 SXM", "ceilings measured here"
    arithmetic_seconds: float | None
    memory_seconds: float | None
    seconds: float | None


class Entry(Record):
    """One contender."""

    name: str
    conditions: dict[str, Any]
    num_images: int  # in one step
    first_step_seconds: float  # compiling included, unless a contender before it had compiled the same code
    warmup_steps: int  # untimed, the first one included
    warmup_seconds: float
    windows: list[Window]
    steps_per_sec: Spread
    images_per_sec: Spread
    ratio: Spread  # this contender's steps/s over the first one's, round by round
    data_wait_share: float
    peak_allocated_bytes: int | None  # its own weights and the step's, on the device; None on a CPU
    peak_reserved_bytes: int | None
    gmacs_step: float | None  # per image, from the formulas; None for code whose arithmetic is not modelled
    gmacs_vae: float | None = None  # besides, where the step encodes its images
    bytes_step: int | None  # the fewest a step must move
    floors: list[Floor]
    over_floor: float | None  # the median step over the floor of the ceilings measured here
    mfu: float | None  # operations a second over the data sheet's peak; None for a device without one
    joules_per_image: float | None
    top_operators: tuple[dict[str, Any], ...] = ()  # where --profile was given


class Bench(Record):
    schema_version: int = SCHEMA_VERSION
    harness_version: str
    git_commit: str | None
    packages: dict[str, str]
    device: Device
    command: str
    measured_at: str  # UTC, ISO 8601
    rounds: int
    matrix_flops_per_second: dict[str, float]  # measured here, by precision
    memory_bytes_per_second: float
    process_peak_rss_bytes: int | None
    entries: list[Entry]
    incomplete: str | None = None  # how far it was when it was stopped; then no claim is judged by it
