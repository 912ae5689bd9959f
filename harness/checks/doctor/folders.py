"""The folders that commands write to: space, permission, and locks."""

import os
import secrets
import shutil
from pathlib import Path

from harness.checks.finding import Finding, failure, ok, warning
from harness.system.files import in_words, sync

MIB, GIB = 2**20, 2**30
FULL, SCARCE = 200 * MIB, 5 * GIB  # free; the weights of Inception and one VAE take 0.4 GiB, a checkpoint of S/2 0.5
MANY_FILES = 1_000  # inodes


def data() -> Finding:
    """Where data sets and references are looked for by name. Only `harness data` and the user write there."""
    from harness.data.sources import data_folder

    folder = data_folder()
    if not folder.is_dir():
        return ok(f"{folder} is not there", "It is made when needed; HARNESS_DATA names another place.")
    if not os.access(folder, os.R_OK | os.X_OK):
        return failure(f"{folder} cannot be read", "Change its permissions, or set HARNESS_DATA.")
    return ok(f"{folder}: {in_words(shutil.disk_usage(folder).free)} free")


def downloads() -> Finding:
    """The Hugging Face cache, where VAEs and feature networks are downloaded to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return look_at(Path(HF_HUB_CACHE), "Set HF_HOME to another folder")


def look_at(folder: Path, otherwise: str) -> Finding:
    """Whether `folder`, or the nearest one above it that exists, has space, takes a file and keeps a lock.

    `otherwise` begins the advice where it does not. The files of the trial are removed again.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    found = f"{folder}: " if there == folder else f"{folder}, not made yet: "
    try:
        _write(there)
    except OSError as error:
        return failure(f"{found}cannot be written: {error.strerror}", f"{otherwise}, or free and open this one.")
    usage, nodes = shutil.disk_usage(there), os.statvfs(there)
    found += f"{in_words(usage.free)} free"
    if usage.free < FULL:
        return failure(found, f"{otherwise}, or free some space: a run stops where its checkpoint does not fit.")
    if nodes.f_files and nodes.f_favail < MANY_FILES:
        return warning(f"{found}, and room for {nodes.f_favail} files", f"{otherwise}, or remove files.")
    if problem := lock_problem(there):
        advice = f"{otherwise}, on a local disk; else never give two commands one run folder."
        return warning(f"{found}; {problem}", advice)
    if usage.free < SCARCE:
        return warning(found, f"{otherwise}, or free some space: sizes beyond tiny need gigabytes.")
    return ok(f"{found}, writable, keeps locks")


def _write(folder: Path) -> None:
    """Write a file as the harness does, down to the disk. Raises OSError."""
    path = folder / f".harness-doctor-{secrets.token_hex(8)}"
    try:
        path.write_bytes(bytes(4096))
        sync(path)
        os.replace(path, path.with_suffix(".moved"))
        sync(folder)
    finally:
        path.unlink(missing_ok=True)
        path.with_suffix(".moved").unlink(missing_ok=True)


def lock_problem(folder: Path) -> str | None:
    """Why locks in this folder would not keep two commands apart; None where they do."""
    from harness.system import locks

    path = folder / f".harness-doctor-{secrets.token_hex(8)}.lock"
    try:
        first = locks.take(path)
    except OSError as error:
        return f"its file system takes no locks ({error.strerror or error})"
    if first is None:
        return "a lock on a new file was refused"
    try:
        second = locks.take(path)
        if second is not None:
            second.release()
            return "its file system gives one lock to two at once"
    finally:
        first.release()
    return None
