"""From a folder of images to a store of latents: shards dealt to processes, each shard all or nothing.

N images, n of one shard, B of a batch, C latent channels, S side in pixels, s side of a latent.
"""

import hashlib
import os
import shutil
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from harness.data.images import image_folder
from harness.data.images.image_folder import Decoder, Listing
from harness.data.latents import sets as latents
from harness.data.latents import vae
from harness.data.latents.sets import SHARD_IMAGES, Description, Manifest
from harness.data.latents.vae import Vae
from harness.system import locks
from harness.system.errors import DataError, HarnessError, SetupError, UsageError
from harness.system.processes import launch

FLOAT16 = 2  # bytes
SPARE = 1.01  # of the space that the values take: labels, manifest, headers
CPU_PROCESSES = 8  # unless asked for more: each holds a VAE and its activations
PATIENCE = 10.0  # seconds that a process gets to end by itself
CONTINUES = "The same command continues with the shards that are not finished."


class Progress(Protocol):
    """Told how many images are done, of how many, and what else there is to say."""

    def note(self, text: str) -> None: ...
    def stage(self, name: str, total: int) -> None: ...
    def advance(self, done: int) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What decides the files, beside the kind of device."""

    images: Path
    out: Path
    vae_id: str
    image_size: int
    flips: bool
    batch_size: int


@dataclass(frozen=True)
class Task:
    """One shard."""

    number: int
    files: list[str]
    labels: list[int]


@dataclass(frozen=True)
class Job:
    """What one process does."""

    settings: Settings
    vae_sha256: str
    device: str
    num_decoders: int  # threads that read images
    tasks: list[Task]


def encode(
    images: Path,
    out: Path,
    *,
    vae_id: str,
    image_size: int = 256,
    flips: bool = False,
    nproc: int | None = None,
    batch_size: int = 32,
    device: str | None = None,
    progress: Progress | None = None,
    shard_images: int = SHARD_IMAGES,
) -> Manifest:
    """Encode `images`, one folder a class, into the latent store `out`, or continue where an earlier call stopped.

    The files depend on the images, the VAE, the batch size and the kind of device, and neither on `nproc` (default: one
    process per GPU, or per processor up to 8) nor on interruptions. `device` is "cuda" or "cpu"; default: a GPU if
    there is one. Raises DataError, UsageError or SetupError; DataError too while another call encodes into `out`.
    """
    for name, value in (("--size", image_size), ("--nproc", nproc), ("--batch", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1.")
    settings = Settings(images, out, vae_id, image_size, flips, batch_size)
    devices = _devices(device, nproc)
    image_folder.class_names(images)  # a wrong folder is told at once,
    encoder = vae.load(vae_id)  # and a missing VAE before ImageNet is listed, which takes a while
    if image_size % encoder.factor:
        raise UsageError(f"--size is {image_size}; the VAE {vae_id} needs a multiple of {encoder.factor}.")
    listing = image_folder.listing(images)
    description = _description(settings, listing, encoder)
    with locks.encoding(out, note=progress.note if progress else lambda text: None):
        _begin(out, description)
        finished = latents.finished_shards(out)
        tasks = [task for task in _tasks(listing, shard_images) if task.number not in finished]
        missing, total = sum(len(task.files) for task in tasks), len(listing.files)
        _check_room(out, description, missing)
        _run(_deal(tasks, settings, encoder.sha256, devices), total - missing, total, progress)
        return latents.finish(out)


# Planning --------------------------------------------------------------------------------------------------------


def _devices(device: str | None, nproc: int | None) -> list[str]:
    """One for each process."""
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        return ["cpu"] * (nproc or min(CPU_PROCESSES, launch.processors()))
    if not torch.cuda.is_available():
        raise SetupError(f"there is no device {kind} on this machine. Use the CPU, or install a torch that has it.")
    count = torch.cuda.device_count()
    return [f"cuda:{number % count}" for number in range(nproc or count)]


def _description(settings: Settings, listing: Listing, encoder: Vae) -> Description:
    # A continued command must meet the same images, but not of the same sizes: damaged ones are fetched again.
    names = hashlib.sha256("\n".join(listing.files).encode()).hexdigest()
    source = f"encoded by dit-harness from {settings.images.resolve().name} (sha256 of the files' names {names})"
    return Description(
        name=settings.out.resolve().name,
        source=source,
        layout="mean,std",
        channels=encoder.channels,
        side=settings.image_size // encoder.factor,
        image_size=settings.image_size,
        scale=encoder.scale,
        flips="stored" if settings.flips else "none",
        crop="adm-centre",
        vae=encoder.identity,
        num_images=len(listing.files),
        num_classes=len(listing.class_names),
        class_names=listing.class_names,
    )


def _begin(out: Path, description: Description) -> None:
    latents.begin(out, description)
    try:
        with tempfile.TemporaryFile(dir=out):  # a store that is continued may lie on a disk that no longer takes files
            pass
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}. Choose another folder with --out.") from None


def _tasks(listing: Listing, shard_images: int) -> list[Task]:
    labels = listing.labels.tolist()
    parts = [slice(start, start + shard_images) for start in range(0, len(labels), shard_images)]
    return [Task(number, listing.files[part], labels[part]) for number, part in enumerate(parts)]


def _check_room(out: Path, description: Description, missing: int) -> None:
    per_image = FLOAT16 * int(np.prod(description.shape)) * (2 if description.flips == "stored" else 1)
    needed, free = int(SPARE * per_image * missing), shutil.disk_usage(out).free
    if needed > free:
        raise DataError(
            f"{out} has {free / 1e9:.2f} GB free, and {missing:,} latents take {needed / 1e9:.2f} GB. "
            "Free some space or choose another folder with --out."
        )


def _deal(tasks: list[Task], settings: Settings, vae_sha256: str, devices: list[str]) -> list[Job]:
    devices = devices[: len(tasks)]
    num_decoders = max(1, launch.processors() // max(1, len(devices)))
    return [
        Job(settings, vae_sha256, device, num_decoders, tasks[number :: len(devices)])
        for number, device in enumerate(devices)
    ]


# Processes -------------------------------------------------------------------------------------------------------


def _run(jobs: list[Job], done: int, total: int, progress: Progress | None) -> None:
    """Every job in a process of its own. What one of them raises is raised here, and ends the others."""
    if progress:
        progress.stage("encode", total)
        progress.advance(done)
    workers: dict[Connection, BaseProcess] = {}
    try:
        _start(jobs, workers)
        working = set(workers)
        while working:
            ready: list[Any] = wait(working)
            for connection in ready:
                try:
                    message = connection.recv()
                except (EOFError, OSError):  # OSError: it ended in the middle of a message
                    raise _died(workers[connection]) from None
                if message is None:
                    working.remove(connection)
                elif isinstance(message, Exception):
                    raise message
                else:
                    done += message
                    if progress:
                        progress.advance(done)
    finally:
        _end(workers)


def _start(jobs: list[Job], workers: dict[Connection, BaseProcess]) -> None:
    context = get_context("spawn")  # a forked one could not use a GPU
    with _no_keyboard_interrupt():
        for job in jobs:
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(job, theirs), daemon=True)
            process.start()
            workers[mine] = process
            theirs.close()  # or its end would never be seen


def _end(workers: dict[Connection, BaseProcess]) -> None:
    """Those that have answered have nothing left to do, and the others must not go on."""
    for process in workers.values():
        process.terminate()
    for connection, process in workers.items():
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
        connection.close()


def _died(process: BaseProcess) -> SetupError:
    process.join(PATIENCE)
    code = process.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return SetupError(
        f"a process that encodes ended with {how}; the system ends those that need too much memory. "
        f"Use a smaller --nproc or --batch. {CONTINUES}"
    )


@contextmanager
def _no_keyboard_interrupt() -> Iterator[None]:
    """Processes started here leave Ctrl-C to this one, which a terminal sends to all; it arrives here afterwards."""
    resource_tracker.ensure_running()  # started with the first of them, it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# One process -----------------------------------------------------------------------------------------------------


def _work(job: Job, answers: Connection) -> None:
    """Encode the job's shards. Sends how many images each batch had, then None, or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    try:
        _encode_shards(job, answers.send)
        answers.send(None)
    except (HarnessError, OSError) as error:
        answers.send(error)
    except torch.OutOfMemoryError:
        batch_size = job.settings.batch_size
        answers.send(
            SetupError(f"the GPU has too little memory for batches of {batch_size}; lower --batch. {CONTINUES}")
        )
    except Exception as error:
        bug = RuntimeError(f"{type(error).__name__}: {error}")
        bug.add_note(traceback.format_exc())
        answers.send(bug)


def _end_with_parent() -> None:
    """A parent that was killed cannot end its processes, and a repeated command would then meet them at its shards."""

    parent = parent_process()
    assert parent is not None, "only a process that another one started calls this"

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _encode_shards(job: Job, report: Callable[[int], None]) -> None:
    # Sums are taken in one order whatever the number of processes: one thread, or the same algorithm in every call.
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    encoder = vae.load(job.settings.vae_id, job.device, sha256=job.vae_sha256)
    decoder = Decoder(job.settings.images, job.settings.image_size, job.num_decoders)
    for task in job.tasks:
        _encode_shard(task, job.settings, encoder, decoder, report)


def _encode_shard(
    task: Task, settings: Settings, encoder: Vae, decoder: Decoder, report: Callable[[int], None]
) -> None:
    values, mirrored = [], []
    for images in _batches(decoder, task.files, settings.batch_size):
        images = images.to(encoder.device)
        values.append(encoder.moments(images).cpu().numpy())  # (B, 2C, s, s)
        if settings.flips:
            mirrored.append(encoder.moments(images.flip(-1)).cpu().numpy())
        report(len(images))
    latents.write_shard(
        settings.out,
        task.number,
        np.concatenate(values),
        np.array(task.labels),
        np.concatenate(mirrored) if settings.flips else None,
    )


def _batches(decoder: Decoder, files: list[str], batch_size: int) -> Iterator[Tensor]:  # (B, 3, S, S) uint8
    """The same batches every time, each read while the one before it is encoded."""
    parts = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    with ThreadPoolExecutor(1, "reader") as reader:
        ahead = reader.submit(decoder.decode, parts[0])
        for part in parts[1:]:
            images = ahead.result()
            ahead = reader.submit(decoder.decode, part)
            yield images
        yield ahead.result()
