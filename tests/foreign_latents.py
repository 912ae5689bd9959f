"""Other projects' latents, written as their own programs write them, and their import."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.data.importers import import_latents
from harness.data.latents.shards import VaeIdentity

lmdb = pytest.importorskip("lmdb")

NUM_IMAGES, CLASSES, SIDE, SCALE = 10, 3, 4, 0.18215
VAE = VaeIdentity(id="stabilityai/sd-vae-ft-mse")
LABELS = np.sort(np.arange(NUM_IMAGES) % CLASSES)  # ImageFolder's order


def samples(num_images=NUM_IMAGES, seed=0, channels=4):  # not scaled, float32
    return np.random.default_rng(seed).normal(0, 1 / SCALE, (num_images, channels, SIDE, SIDE)).astype(np.float32)


def logvars(num_images=NUM_IMAGES):
    return np.random.default_rng(9).normal(-17, 3, (num_images, 4, SIDE, SIDE)).astype(np.float32)


def stds(num_images=NUM_IMAGES):
    return np.exp(0.5 * logvars(num_images))


def bring(format, source, out, **settings):
    return import_latents(format, source, out, vae=VAE, **{"num_classes": CLASSES} | settings)


def half(values):
    return torch.from_numpy(values.astype(np.float16))


# Each format as its own program writes it ------------------------------------------------------------------------


def write_maskdit(folder, moments, labels, length=None):
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for number, (moment, label) in enumerate(zip(moments, labels, strict=True)):
            transaction.put(f"z-{number}".encode(), moment.tobytes())
            transaction.put(f"y-{number}".encode(), str(label).encode())
        if length != 0:
            transaction.put(b"length", str(length or len(moments)).encode())
    return folder.parent


def write_fast_dit(folder, scaled, labels=LABELS):
    for name in ("imagenet256_features", "imagenet256_labels"):
        (folder / name).mkdir(parents=True)
    for number, (sample, label) in enumerate(zip(scaled, labels, strict=False)):
        np.save(folder / "imagenet256_features" / f"{number}.npy", sample[None])
        np.save(folder / "imagenet256_labels" / f"{number}.npy", np.array([label]))
    return folder


def repa_files(moments, labels=LABELS):
    """Contents by their names."""
    files = {}
    for number, moment in enumerate(moments):
        content = io.BytesIO()
        np.save(content, moment)
        files[f"{number // 1000:05d}/img-mean-std-{number:08d}.npy"] = content.getvalue()
    pairs = None if labels is None else [[name, int(label)] for name, label in zip(files, labels, strict=True)]
    return files | {"dataset.json": json.dumps({"labels": pairs}).encode()}


def write_zip(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_lightningdit(folder, plain, flipped=None, labels=LABELS, cut=7):
    folder.mkdir()
    for shard, rows in enumerate((slice(0, cut), slice(cut, None))):
        tensors = {"latents": torch.from_numpy(plain[rows]), "labels": torch.from_numpy(labels[rows])}
        if flipped is not None:
            tensors["latents_flip"] = torch.from_numpy(flipped[rows])
        save_file(tensors, folder / f"latents_rank00_shard{shard:03d}.safetensors")
    (folder / "latents_stats.pt").write_bytes(b"\x80\x04never read")
    return folder


def moments_with(second_half):
    return np.concatenate([samples(len(second_half)), second_half], axis=1)


def sources(tmp_path):
    """A small source of each format, and the values a store must then hold."""
    moments, scaled = moments_with(stds()), samples() * np.float32(SCALE)
    maskdit = write_maskdit(tmp_path / "maskdit" / "train", moments_with(logvars()), LABELS)
    return {
        "maskdit-lmdb": (maskdit, moments),
        "fast-dit": (write_fast_dit(tmp_path / "fast", scaled), scaled / SCALE),
        "repa-zip": (write_zip(tmp_path / "repa.zip", repa_files(moments)), moments),
        "safetensors": (write_lightningdit(tmp_path / "lightning", samples()), samples()),
    }
