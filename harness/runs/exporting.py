"""A run's network as a folder of its own: weights as safetensors, configuration, record, model card. And read again.

model.safetensors  the network's weights; its header says of what
config.yaml        as the run's, without the folders of the machine it ran on
export.json        where it comes from and what was measured of it, as data (harness.records.schema.Export)
README.md          the same to read: a model card

For diffusers, a folder transformer/ stands in place of model.safetensors: the same weights as diffusers has them, with
its config.json.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import baselines
import harness
from harness.recipes.config import RunConfig
from harness.recipes.reading import about
from harness.records.run_folder import RunFolder
from harness.records.schema import EXPORT_RECORD as RECORD
from harness.records.schema import Export, Import, Record, read_record, write_atomically, write_record
from harness.records.store import Run, load_run
from harness.runs import diffusers_layout, published_weights
from harness.runs import folder as run_folder
from harness.runs.importing import RECORD as IMPORT_RECORD
from harness.system import locks
from harness.system.errors import DataError, UsageError
from harness.system.files import sha256_of, sync
from harness.system.progress import Progress
from harness.system.weights import fingerprint
from harness.training import checkpoint

FORMAT = "dit-harness-export-1"
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
UNKNOWN_LICENCE = "unknown"
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "README.md"
DIFFUSERS_WEIGHTS = f"{diffusers_layout.FOLDER}/{diffusers_layout.WEIGHTS}"
DIFFUSERS_CONFIG = f"{diffusers_layout.FOLDER}/{diffusers_layout.CONFIG}"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")  # a network's name, like stabilityai/sd-vae-ft-ema, is no place
# All of a place but its last part: a file system, a drive, a share, somebody's home, the folder one is in, or a URL. It
# ends where a quote, a bracket, a comma, an equals sign or the next option begins. Folders' names may hold spaces, so
# words after a place up to another slash go too: rather a word too few than a folder too many.
ROOT = r"(?:~[\w.-]*|[A-Za-z]:|\.{1,2})?[/\\](?=\S)"
SCHEME = r"[A-Za-z][\w+.-]*:[/\\]{2,}"
INSIDE = r"(?:(?! +-)[^'\"\[\]{},=\n])"
FOLDERS = re.compile(rf"(?:\b{SCHEME}|(?<![^\s=(:,\[{{<>;|'\"]){ROOT})(?:{INSIDE}*(?<!\s)[/\\])?")

R = TypeVar("R", bound=Record)
Weights = Literal["ema", "raw"]
Format = Literal["safetensors", "diffusers"]
# Writes the model card from the record, the configuration, the shapes of the weights and the run.
Card = Callable[[Export, dict[str, Any], dict[str, tuple[int, ...]], Run | None], str]


class Exported(NamedTuple):
    """An exported network, read again: on the CPU, ready to be sampled."""

    cfg: RunConfig
    network: torch.nn.Module
    record: Export


def export(
    folder: Path,
    out: Path,
    *,
    card: Card,
    step: int | None,
    weights: Weights,
    license: str | None,
    force: bool,
    progress: Progress,
    format: Format = "safetensors",
) -> Export:
    """Write the network of the run in `folder` after `step` steps, the newest by default, as the new folder `out`.

    It appears whole or not at all. The same run gives the same bytes. `force` replaces an earlier export, with what was
    drawn and measured in it, and nothing else. `format` may be "diffusers" for a DiT.
    Raises UsageError for a licence or a folder that cannot be taken, DataError for a run without such weights.
    """
    _refuse_occupied(out, force)  # before a lock file is made beside it
    with ExitStack() as holds:
        if folder.is_dir():
            holds.enter_context(locks.in_use(folder, note=progress.note))
        if out.resolve() != folder.resolve():
            holds.enter_context(locks.run_folder(out, "choose another --out", alone=True, note=progress.note))
        _refuse_occupied(out, force)
        if (folder / RECORD).is_file():
            raise UsageError(f"{folder} is an export already; copy it, or export its run again.")
        cfg = run_folder.configuration(folder)
        if format == "diffusers" and cfg.method != "dit":
            raise UsageError(
                f"{folder} is a run of {cfg.method}; diffusers has a network for DiT alone, so --format diffusers "
                "takes runs of dit. Leave it out."
            )
        if format == "diffusers" and (own := cfg.block.model_dump(exclude_defaults=True)):
            raise UsageError(
                f"{folder} has blocks of its own ({', '.join(f'{name} {value}' for name, value in own.items())}), and "
                "diffusers' DiT has none of these, so --format diffusers cannot hold it. Leave it out."
            )
        found = RunFolder(folder, folder.name)
        if found.imported is None and found.manifest is None:
            file = folder / (IMPORT_RECORD if IMPORT_RECORD in found.damaged else "manifest.json")
            raise DataError(f"{file} {found.damaged.get(file.name, 'is missing')}.")
        found_step, tensors = _weights_of(folder, cfg, step, weights, progress)
        network = run_folder.network(cfg, tensors, folder)  # refuses weights that are not of this configuration
        places, sha256 = _places_of(cfg, found), fingerprint(tensors)
        portable = baselines.configured(without_places(cfg.model_dump(mode="json"), places))
        of_these = [
            evaluation
            for evaluation in found.all_evaluations.values()
            if (evaluation.step, evaluation.weights) == (found_step, weights)
            and evaluation.weights_sha256 in (None, sha256)
        ]
        record = Export(
            harness_version=harness.__version__,
            run=f"{cfg.recipe}/{folder.resolve().name}",
            weights=weights,
            step=found_step,
            weights_sha256=sha256,
            config_sha256=portable.sha256,
            run_config_sha256=cfg.sha256,
            license=_licence(license, found.imported),
            manifest=found.manifest and _copied_without_places(found.manifest, places),
            imported=found.imported,
            result=found.result and found.result.model_copy(update={"evaluations": {}}),
            evaluations={e.name: _copied_without_places(e, places) for e in of_these},
            files={},
        )
        whole = _whole_run(folder) if found.result and found_step == found.result.steps else None
        if format == "diffusers":
            official = published_weights.official_weights(cfg.method, network)
            tensors = diffusers_layout.from_official(official, cfg.network.depth)
        return _write(out, record, portable, tensors, whole, card, format)


def load(folder: Path) -> Exported:
    """The network that `export` wrote into `folder`, each of its files checked against the record's hash.

    Raises DataError when a file is missing, was changed or does not fit the others.
    """
    record = read_record(folder / RECORD, Export)
    of_diffusers = DIFFUSERS_WEIGHTS in record.files
    weights = DIFFUSERS_WEIGHTS if of_diffusers else WEIGHTS
    for name in (weights, CONFIG):
        try:
            same = sha256_of(folder / name) == record.files.get(name)
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read: {error.strerror or error}. Export it again.") from None
        if not same:
            raise DataError(f"{folder / name} is not the file that was exported: its sha256 differs. Export it again.")
    cfg = run_folder.configuration(folder)
    try:
        tensors = load_file(folder / weights)
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{folder / weights} cannot be read: {error}. Export it again.") from None
    if of_diffusers:
        tensors = published_weights.convert(cfg.method, baselines.build(cfg).network, tensors)
    return Exported(cfg, run_folder.network(cfg, tensors, folder).eval(), record)


# Reading a run --------------------------------------------------------------------------------------------------------


def _weights_of(
    folder: Path, cfg: RunConfig, step: int | None, weights: Weights, progress: Progress
) -> tuple[int, dict[str, Tensor]]:
    read = checkpoint.load_ema if weights == "ema" else checkpoint.load_raw
    found = read(folder / "checkpoints", cfg.sha256, progress.note, step)
    if found is None:
        what = "checkpoint" if weights == "ema" else "raw weights, which only the newest checkpoints keep,"
        raise run_folder.no_checkpoint(folder, step, what)
    return found


def _whole_run(folder: Path) -> Run | None:
    """The run, where it is finished and undamaged."""
    try:
        return load_run(folder)
    except DataError:
        return None


def without_places(value: Any, known: Sequence[str] = ()) -> Any:
    """A text, or each text in a document, with the last part alone of every path and URL, which name a machine's owner.

    `known` places go wherever they stand, also where a relative one could not be told from other words.
    """
    if isinstance(value, dict):
        return {name: without_places(inner, known) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_places(inner, known) for inner in value]
    if not isinstance(value, str):
        return value
    for place in known:
        value = value.replace(place, re.split(r"[/\\]", place.rstrip("/\\"))[-1])
    return FOLDERS.sub("", value)


def _copied_without_places(record: R, known: Sequence[str]) -> R:
    return type(record).model_validate(without_places(record.model_dump(mode="json"), known))


def _places_of(cfg: RunConfig, run: RunFolder) -> list[str]:
    """The places that a run's settings and evaluations name, the longest first."""
    named = {cfg.protocol.data, cfg.protocol.vae, cfg.evaluation.reference}
    named |= {run.manifest.data.name} if run.manifest else set()
    named |= {evaluation.protocol.reference for evaluation in run.all_evaluations.values()}
    places = {name for name in named if name and re.search(r"[/\\]", name)}
    return sorted((p for p in places if not HUB_NAME.fullmatch(p) or p[0] == "."), key=len, reverse=True)


def _licence(asked: str | None, imported: Import | None) -> str:
    if imported is None:
        if asked is not None and not LICENCE.fullmatch(asked):
            raise UsageError(f"--license is {asked!r}; it must be an identifier as Hugging Face lists them, like mit.")
        return asked or UNKNOWN_LICENCE
    if asked is not None:
        raise UsageError("--license is for networks trained here; an imported one keeps its own. Leave it out.")
    return about(imported.method).licence or UNKNOWN_LICENCE


# Writing --------------------------------------------------------------------------------------------------------------


def _refuse_occupied(out: Path, force: bool) -> None:
    if not os.path.lexists(out):
        return
    if not (out / RECORD).is_file():
        raise UsageError(f"{out} exists and is no export; nothing in it is touched. Choose another --out.")
    if not force:
        raise UsageError(f"{out} is an export already. --force replaces it; --out writes another one.")


def _write(
    out: Path,
    record: Export,
    cfg: RunConfig,
    tensors: Mapping[str, Tensor],
    run: Run | None,
    card: Card,
    format: Format,
) -> Export:
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        write_atomically(temporary / CONFIG, cfg.to_yaml())
        weights, names = WEIGHTS, [WEIGHTS, CONFIG]
        if format == "diffusers":
            weights, names = DIFFUSERS_WEIGHTS, [DIFFUSERS_CONFIG, DIFFUSERS_WEIGHTS, CONFIG]
            (temporary / weights).parent.mkdir()
            out_channels = len(tensors["proj_out_2.bias"]) // cfg.network.patch**2
            described = json.dumps(diffusers_layout.config_of(cfg, out_channels), indent=2)
            write_atomically(temporary / DIFFUSERS_CONFIG, described + "\n")
        _save(tensors, temporary / weights, _header(record, cfg))
        shutil.copymode(temporary / CONFIG, temporary / weights)  # safetensors writes for the owner alone
        hashes = {name: sha256_of(temporary / name) for name in names}
        record = record.model_copy(update={"files": hashes})
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        write_atomically(temporary / CARD, card(record, cfg.model_dump(mode="json"), shapes, run))
        record = record.model_copy(update={"files": {**hashes, CARD: sha256_of(temporary / CARD)}})
        write_record(temporary / RECORD, record)
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
        _replace(temporary, out)
    except OSError as error:
        raise DataError(
            f"{out} cannot be written: {error.strerror or error}. Free some space or choose another --out."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return record


def _replace(temporary: Path, out: Path) -> None:
    """Put the new folder in the place of an earlier export, which goes only when the new one is there."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if os.path.lexists(out):
        out.rename(old)
    try:
        temporary.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    sync(out.parent)
    if old.exists():
        shutil.rmtree(old)


def _header(record: Export, cfg: RunConfig) -> dict[str, str]:
    """What the safetensors file says of itself, so that it can be used alone. Other loaders ask for "format"."""
    return {
        "format": "pt",
        "harness_format": FORMAT,
        "harness_version": record.harness_version,
        "recipe": cfg.recipe,
        "method": cfg.method,
        "run": record.run,
        "step": str(record.step),
        "weights": record.weights,
        "weights_sha256": record.weights_sha256,
        "config_sha256": record.config_sha256,
        "license": record.license,
        "config": json.dumps(cfg.model_dump(mode="json"), sort_keys=True),
    }


def _save(tensors: Mapping[str, Tensor], path: Path, header: dict[str, str]) -> None:
    """As safetensors' save_file, but the same header gives the same bytes: the library writes it in any order."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, header)
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        written = json.loads(file.read(size))
        written["__metadata__"] = dict(sorted(written["__metadata__"].items()))
        ordered = json.dumps(written, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(ordered) <= size, "the header's letters are the library's"
        file.seek(8)
        file.write(ordered.ljust(size))
