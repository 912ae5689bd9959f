"""Encode a folder of images into a store of latents. Processes share the shards, each whole or not there.

N images, n of one shard, B of a batch, C latent channels, S side in pixels, s side of a latent.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.data.images import image_folder
from harness.data.images.image_folder import Decoder, Listing
from harness.data.latents import shards, vae
from harness.data.latents.shards import SHARD_IMAGES, Description, Manifest
from harness.data.latents.vae import Vae
from harness.system import locks
from harness.system.errors import DataError, SetupError, UsageError
from harness.system.files import writing
from harness.system.precision import one_thread
from harness.system.processes import launch
from harness.system.processes.world import World
from harness.system.progress import Progress

FLOAT16 = 2  # bytes
SPARE = 1.01  # of the space that the values take: labels, manifest, headers
CPU_PROCESSES = 8  # unless asked for more: each holds a VAE and its activations


def usual_processes(images: Path) -> int:
    """The default number of encoding processes: one per GPU, or per processor up to 8; at most one per shard."""
    num_shards = -(-len(image_folder.listing(images).files) // SHARD_IMAGES)
    return min(num_shards, torch.cuda.device_count() or min(CPU_PROCESSES, launch.processors()))


def encode(
    images: Path,
    out: Path,
    *,
    vae_id: str,
    image_size: int = 256,
    flips: bool = False,
    batch_size: int = 32,
    world: World = World(),
    progress: Progress,
    shard_images: int = SHARD_IMAGES,
) -> Manifest:
    """Encode `images`, one folder a class, into the latent store `out`, or continue where an earlier call stopped.

    Each process of `world` encodes its share of the shards, on a GPU where there is one. The files depend on the
    images, the VAE, the batch size and the kind of device, and neither on the number of processes nor on interruptions.
    Raises DataError, UsageError or SetupError; DataError too while another command encodes into `out`.
    """
    for name, value in (("--size", image_size), ("--batch", batch_size)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1.")
    if images.resolve() in (out.resolve(), *out.resolve().parents):
        raise UsageError(
            f"--out {out} lies in {images}, among the images: it would be taken for a class. Name another."
        )
    image_folder.class_names(images)  # a wrong folder is refused at once,
    encoder = vae.load(vae_id)  # and a missing VAE before ImageNet is listed, which takes a while
    if image_size % encoder.factor:
        raise UsageError(f"--size is {image_size}; the VAE {vae_id} needs a multiple of {encoder.factor}.")
    listing = image_folder.listing(images)
    description = _description(listing, encoder, out, image_size, flips)
    with locks.encoding(out, world=world, note=progress.note):
        if world.is_main:
            _begin(out, description)
        finished = world.agreed(shards.finished_shards(out) if world.is_main else None)
        total = len(listing.files)
        parts = [slice(first, first + shard_images) for first in range(0, total, shard_images)]
        unfinished = [number for number in range(len(parts)) if number not in finished]
        missing = sum(len(listing.files[parts[number]]) for number in unfinished)
        _check_room(out, description, missing)
        progress.stage("encode", total)
        progress.advance(total - missing)
        encoded = 0

        def count(num_images: int) -> None:
            nonlocal encoded
            encoded += num_images  # the other processes are about as fast
            progress.advance(total - missing + min(missing, encoded * world.size))

        device = f"cuda:{world.local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
        # Sums are taken in one order whatever the number of processes: one thread, or the same algorithm in every call.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        with one_thread():
            encoder = vae.load(vae_id, device, sha256=encoder.sha256)
            decoder = Decoder(images, image_size)
            for number in unfinished[world.rank :: world.size]:
                part = parts[number]
                values, mirrored = _encoded(listing.files[part], encoder, decoder, batch_size, flips, count)
                shards.write_shard(out, number, values, listing.labels[part].numpy(), mirrored)
        world.wait()
        if world.is_main:
            shards.finish(out)
        world.wait()
        return shards.read_manifest(out)


def _description(listing: Listing, encoder: Vae, out: Path, image_size: int, flips: bool) -> Description:
    # A continued command must find the same images, but not of the same sizes: damaged ones are fetched again.
    names = hashlib.sha256("\n".join(listing.files).encode()).hexdigest()
    source = f"encoded by dit-harness from {listing.folder.resolve().name} (sha256 of the files' names {names})"
    return Description(
        name=out.resolve().name,
        source=source,
        layout="mean,std",
        channels=encoder.channels,
        side=image_size // encoder.factor,
        image_size=image_size,
        scale=encoder.scale,
        flips="stored" if flips else "none",
        crop="adm-centre",
        vae=encoder.identity,
        num_images=len(listing.files),
        num_classes=len(listing.class_names),
        class_names=listing.class_names,
    )


def _begin(out: Path, description: Description) -> None:
    shards.begin(out, description)
    with writing(out), tempfile.TemporaryFile(dir=out):  # a store that is continued may lie on a disk that is full
        pass


def _check_room(out: Path, description: Description, missing: int) -> None:
    per_image = FLOAT16 * int(np.prod(description.shape)) * (2 if description.flips == "stored" else 1)
    needed, free = int(SPARE * per_image * missing), shutil.disk_usage(out).free
    if needed > free:
        raise DataError(
            f"{out} has {free / 1e9:.2f} GB free, and {missing:,} latents take {needed / 1e9:.2f} GB. "
            "Free some space or choose another folder with --out."
        )


def _encoded(
    files: list[str], encoder: Vae, decoder: Decoder, batch_size: int, flips: bool, count: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray | None]:  # (n, 2C, s, s) each
    """The moments of the images in these files and, if wanted, of their mirror images."""
    values, mirrored = [], []
    try:
        for images in _batches(decoder, files, batch_size):
            images = images.to(encoder.device)
            values.append(encoder.moments(images).cpu().numpy())
            if flips:
                mirrored.append(encoder.moments(images.flip(-1)).cpu().numpy())
            count(len(images))
    except torch.OutOfMemoryError:
        raise SetupError(
            f"the GPU has too little memory for batches of {batch_size}; lower --batch. The same command continues "
            "with the shards that are not finished."
        ) from None
    return np.concatenate(values), np.concatenate(mirrored) if flips else None


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
