"""Small whole files of every format that is read, made in code: what properties and fuzzers begin with."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from harness.data.latents import shards


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def npz(arrays: dict[str, np.ndarray], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, values in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), npy(values), compression)
    return file.getvalue()


def npzs() -> list[bytes]:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    statistics = {"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.zeros(2), "sigma_s": np.eye(2)}
    provenance = np.array(json.dumps({"num_images": 5, "features": "inception"}))
    return [
        npz({"arr_0": images}),
        npz({"arr_0": images, "arr_1": np.array([3, 4])}, zipfile.ZIP_DEFLATED),
        npz({**statistics, "provenance": provenance}),
        npz({"arr_0": np.asfortranarray(images), "labels": np.array([1, 2], ">i2"), "odd": np.zeros((0, 3), "<U4")}),
    ]


def npys() -> list[bytes]:
    return [npy(np.zeros((2, 8, 2, 2), np.float16)), npy(np.arange(3)), npy(np.zeros((1, 4, 2, 2), np.float32))]


def safetensors() -> list[bytes]:
    shard = {
        "latents": torch.randn(2, 4, 2, 2),
        "labels": torch.tensor([0, 1]),
        "latents_flip": torch.randn(2, 4, 2, 2),
    }
    return [save({"pool": torch.zeros(2, 3)}, {"sha256": "0" * 64}), save(shard), save({"mu": torch.zeros(0)})]


def store(folder: Path) -> Path:
    """A complete store of four latents in two classes, with mirrored ones."""
    values = np.abs(np.random.default_rng(0).normal(size=(4, 8, 2, 2))).astype(np.float32)
    description = shards.Description(
        name="small", source="made in code", layout="mean,std", channels=4, side=2, image_size=16, crop="none",
        flips="stored", vae=shards.VaeIdentity(id="random"), num_images=4, num_classes=2,
    )  # fmt: skip
    shards.begin(folder, description)
    shards.write_shard(folder, 0, values, np.array([0, 0, 1, 1]), values[..., ::-1])
    shards.finish(folder)
    return folder


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
