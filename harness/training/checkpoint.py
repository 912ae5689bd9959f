"""Checkpoints that are whole or absent: written aside, synced, renamed, and verified before they are used.

checkpoints/step-<number>/ holds
  method.safetensors  every weight and buffer of the method; the raw network's begin with "network."
  ema.safetensors     the averaged network
  optimizer.pt        loadable with weights_only=True
  state.json          step, config hash, seconds so far, losses not yet logged, whether the steps were compiled, the
                      sha256 of the other three and of itself
An imported checkpoint has ema.safetensors and state.json alone, and so has a milestone that is no longer new.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.recipes.naming import digest
from harness.records.schema import SCHEMA_VERSION, read_json
from harness.system.errors import DataError, HarnessError, one_line
from harness.system.files import sha256_of, sync
from harness.system.processes.world import World
from harness.system.weights import load_saved

R = TypeVar("R")
EMA_FILE = "ema.safetensors"
METHOD_FILE = "method.safetensors"
FILES = (METHOD_FILE, EMA_FILE, "optimizer.pt")
RAW = "network."  # the raw network's names begin so


class Unlogged(NamedTuple):
    """The steps since the last log line."""

    steps: int
    sums: dict[str, float]  # over these steps, of every part of the loss

    def plus(self, losses: list[dict[str, float]]) -> "Unlogged":
        """With these steps too. Added one after the other: a run that was stopped has the sums of one that was not."""
        sums = self.sums
        for parts in losses:
            sums = {name: sums.get(name, 0.0) + value for name, value in parts.items()}
        return Unlogged(self.steps + len(losses), sums)


class Checkpoint(NamedTuple):
    """Training after `step` steps. Tensors are on the CPU."""

    step: int
    seconds: float  # wall time of training so far, over all the processes that worked on the run
    method: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict
    unlogged: Unlogged = Unlogged(0, {})  # of a run that was stopped between two log lines
    compiled: bool | None = None  # whether the steps were; None: an older version did not say


class Keep(NamedTuple):
    """Which checkpoints stay when a new one is written."""

    last: int = 2  # the newest, and the one before it in case the newest is damaged
    every: int | None = None  # steps: the averages at multiples of it are milestones and stay for good


class Writer:
    """Writes checkpoints in the background, one at a time: training waits for the copy in memory, not for the disk."""

    def __init__(self, folder: Path, config_sha256: str, keep: Keep, *, written: Callable[[int], None]):
        self._folder, self._config_sha256, self._keep, self._written = folder, config_sha256, keep, written
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, checkpoint: Checkpoint) -> None:
        """Start to write `checkpoint`, whose tensors no longer change, after the previous one is written."""
        self.join()
        self._thread = threading.Thread(target=self._run, args=(checkpoint,), name="checkpoint-writer")
        self._thread.start()

    def join(self) -> None:
        """Wait until the last one is written. Raises what its writing raised: DataError when the disk refused."""
        if self._thread:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error:
            raise error

    def _run(self, checkpoint: Checkpoint) -> None:
        try:
            save(self._folder, checkpoint, self._config_sha256, self._keep)
            self._written(checkpoint.step)
        except BaseException as error:  # handed over to the training thread, which raises it
            self._error = error


def copied(state: Any) -> Any:
    """`state`, nested as it is, with every tensor copied to the CPU so that training can go on changing its own."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state


def save(folder: Path, checkpoint: Checkpoint, config_sha256: str, keep: Keep) -> None:
    """Write `checkpoint` under `folder`, then remove what `keep` drops. Raises DataError when the disk refuses."""

    def write_files(temporary: Path) -> None:
        save_file(_plain(checkpoint.method), temporary / "method.safetensors")
        save_file(_plain(checkpoint.ema), temporary / "ema.safetensors")
        _save_pickled(checkpoint.optimizer, temporary / "optimizer.pt")

    more = {
        "seconds": checkpoint.seconds,
        "unlogged": checkpoint.unlogged._asdict(),
        "compiled": checkpoint.compiled,
    }
    _write(folder, checkpoint.step, more, config_sha256, write_files)
    newest_first = list(reversed(_folders(folder)))
    with _disk(f"old checkpoints in {folder} could not be removed"):
        for old in newest_first[keep.last :]:
            if keep.every is None or _step_of(old) % keep.every:
                shutil.rmtree(old)
                continue
            for name in set(FILES) - {EMA_FILE}:  # a milestone is sampled, not continued: a fifth of the room
                (old / name).unlink(missing_ok=True)


def go_back_to(folder: Path, step: int) -> None:
    """Remove what lies after `step`, the newest that verifies: damaged, it would be kept as newer than the next one."""
    with _disk(f"damaged checkpoints in {folder} could not be removed"):
        for path in _folders(folder):
            if _step_of(path) > step:
                shutil.rmtree(path)


def refuse_disagreement(folder: Path, step: int, world: World) -> None:
    """Raises DataError, in every process, where the step that each found to continue from is not the same."""
    if world.size == 1:
        return
    steps = [None] * world.size
    dist.all_gather_object(steps, step)
    if len(set(steps)) > 1:
        raise DataError(
            f"the processes found different checkpoints in {folder}: {steps}. All of them must see one folder; "
            "choose an --out that every machine shares."
        )


def save_ema(folder: Path, step: int, ema: Mapping[str, Tensor], config_sha256: str) -> None:
    """Write a checkpoint that can be sampled and not trained further: an averaged network alone."""
    _write(
        folder,
        step,
        {"seconds": 0.0},
        config_sha256,
        lambda temporary: save_file(_plain(ema), temporary / "ema.safetensors"),
    )


def _write(
    folder: Path, step: int, more: dict[str, Any], config_sha256: str, write_files: Callable[[Path], None]
) -> None:
    final = folder / f"step-{step:09d}"
    temporary = folder / f".{final.name}.tmp"
    with _disk(f"the checkpoint of step {step} could not be written to {folder}", temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_files(temporary)
        state = {
            "schema_version": SCHEMA_VERSION,
            "step": step,
            **more,
            "config_sha256": config_sha256,
            "files": {path.name: sha256_of(path) for path in sorted(temporary.iterdir())},
        }
        state["sha256"] = digest(state)
        (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        for path in [*temporary.iterdir(), temporary]:
            sync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(folder)


def _save_pickled(state: dict, path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # what torch raises when the disk refuses
        raise OSError(f"{path.name} was cut short ({one_line(error, 80)})") from None


@contextmanager
def _disk(failure: str, temporary: Path | None = None) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a disk that refuses
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
        raise DataError(
            f"{failure}: {getattr(error, 'strerror', None) or error}. "
            "Free some space or choose another --out, then repeat the command: it continues from the last checkpoint."
        ) from error


def load_newest(folder: Path, config_sha256: str, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None. Each one that does not is passed over with a note.

    Raises DataError for a whole one of another configuration: continuing would end in overwriting it.
    """
    return _newest(folder, config_sha256, FILES, note, _load)


def refuse_foreign(folder: Path, config_sha256: str) -> None:
    """Raises DataError when a checkpoint in `folder` is of another configuration. Reads no weights."""
    for path in _folders(folder):
        try:
            state = _verified_state(path, ())
        except DataError:
            continue  # damaged: loading passes over it and says so
        _refuse_foreign(path, state, config_sha256)


def _refuse_foreign(path: Path, state: dict[str, Any], config_sha256: str) -> None:
    if state["config_sha256"] != config_sha256:
        raise DataError(
            f"{path} belongs to another configuration than this run's config.yaml. Move it away, choose another "
            "--out, or start over with --force."
        )


def load_ema(
    folder: Path, config_sha256: str, note: Callable[[str], None], step: int | None = None
) -> tuple[int, dict[str, Tensor]] | None:
    """Step and averaged network of the checkpoint of `step`, or of the newest whose average verifies; None: of none."""
    return _newest(
        folder, config_sha256, (EMA_FILE,), note, lambda path, state: (state["step"], _tensors(path, "ema")), step
    )


def load_raw(
    folder: Path, config_sha256: str, note: Callable[[str], None], step: int | None = None
) -> tuple[int, dict[str, Tensor]] | None:
    """As load_ema, but the network as it was trained, not averaged. A milestone that is no longer new has none."""

    def load(path: Path, state: dict[str, Any]) -> tuple[int, dict[str, Tensor]]:
        method = _tensors(path, "method")
        return state["step"], {k.removeprefix(RAW): v for k, v in method.items() if k.startswith(RAW)}

    return _newest(folder, config_sha256, (METHOD_FILE,), note, load, step)


def steps(folder: Path) -> list[int]:
    """The steps of which there is a checkpoint, whole or not."""
    return [_step_of(path) for path in _folders(folder)]


def _newest(
    folder: Path,
    config_sha256: str,
    files: tuple[str, ...],
    note: Callable[[str], None],
    load: Callable[[Path, dict[str, Any]], R],
    step: int | None = None,
) -> R | None:
    for path in reversed(_folders(folder)):
        if step not in (None, _step_of(path)):
            continue
        try:
            state = _verified_state(path, files)
        except DataError as error:
            note(f"checkpoint {path.name} is left out: {error}")
            continue
        _refuse_foreign(path, state, config_sha256)
        return load(path, state)
    return None


def _verified_state(path: Path, files: tuple[str, ...]) -> dict[str, Any]:
    try:
        state = read_json(path / "state.json")
        if state.pop("sha256") != digest(state):
            raise DataError("state.json was changed.")
        damaged = [name for name in files if sha256_of(path / name) != state["files"][name]]
        if state["step"] != _step_of(path) or not isinstance(state["seconds"], int | float):
            raise DataError(f"state.json is of step {state['step']!r}, or incomplete.")
        if not isinstance(state["config_sha256"], str):
            raise DataError("state.json names no configuration.")
        unlogged = Unlogged(**state.get("unlogged", Unlogged(0, {})._asdict()))  # older ones have none
        if type(unlogged.steps) is not int or not all(type(value) is float for value in unlogged.sums.values()):
            raise DataError("state.json has losses that are no numbers.")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"it cannot be read: {error}.") from None
    if damaged:
        raise DataError(f"{', '.join(damaged)} differs from the sha256 written with it.")
    return state


def _load(path: Path, state: dict[str, Any]) -> Checkpoint:
    try:
        optimizer = load_saved(path / "optimizer.pt")
    except HarnessError:
        raise  # a signal that arrived meanwhile
    except Exception as error:  # its hash fits, but is no secret; pickles that are refused or damaged fail in any way
        raise DataError(
            f"{path / 'optimizer.pt'} is refused: it is damaged or holds more than tensors and numbers "
            f"({type(error).__name__}), and code in it is never run. Remove {path}; the run goes on from an older one."
        ) from None
    method, ema = _tensors(path, "method"), _tensors(path, "ema")
    unlogged = Unlogged(**state["unlogged"]) if "unlogged" in state else Unlogged(0, {})
    return Checkpoint(state["step"], state["seconds"], method, ema, optimizer, unlogged, state.get("compiled"))


def _tensors(path: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_file(path / f"{name}.safetensors")
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = one_line(error, 200)
        raise DataError(f"{path / name}.safetensors is damaged: {reason}. Remove {path} and repeat.") from None


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-" + 9 * "[0-9]"))


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
