"""Weights and references: there with the right hash, there with a wrong one, or not there and how to get them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from harness.checks.doctor.finding import Finding, failure, ok, warning
from harness.model.pretrained import Pretrained

CROP = 128  # pixels: a fourth of the work of 256, which would take a processor half a minute
LEAST_PSNR = 20.0  # dB. The model card of sd-vae-ft-ema has 23.8 ± 3.9 on COCO 2017: one deviation below


def inception() -> Finding:
    """The feature network of every FID."""
    from harness.evaluation.networks.inception import PUBLISHED

    return _weights("Inception", PUBLISHED, "not there: no FID yet")


def vae(id: str, *, needed: bool) -> Finding:
    """A published VAE's weights; `needed` by recipes."""
    from harness.data.latents.vae import PUBLISHED

    absent = "not there: no images of latents yet" if needed else "not there (optional)"
    return _weights(f"VAE {Path(id).name.removeprefix('sd-vae-')}", PUBLISHED[id], absent, needed=needed)


def transformer(name: str) -> Finding:
    """The optional feature networks of FD-DINOv2 and CMMD, "dinov2" and "clip"."""
    from harness.evaluation.networks import transformers_networks as networks

    published = {"dinov2": networks.DINOV2, "clip": networks.CLIP}[name].published
    how = f"For --features {name}: pip install 'dit-harness[vit]'. "
    return _weights(name, published, "not there (optional)", needed=False, how=how)


def _weights(name: str, published: Pretrained, absent: str, *, needed: bool = True, how: str = "") -> Finding:
    path = published.find()
    if path is None:
        text = f"{how}The file is downloaded when first needed; offline, {published.advice}."
        return _absent(name, absent, text, needed=needed)
    return _judged(name, path, published.sha256, f"{published.advice}.")


def reference(name: str, *, needed: bool) -> Finding:
    """One of ADM's reference batches, read and judged; nobody publishes their hashes, so its own is shown."""
    from harness.data.sources import data_folder
    from harness.evaluation import references
    from harness.evaluation.reference_file import read_reference
    from harness.system.errors import DataError

    shown, folder = f"reference {256 if needed else 512}", data_folder() / "references"
    how = f"Fetch {references.PUBLISHED[name]} to {folder / name}."
    path = folder / name
    if not path.is_file():
        return _absent(
            shown, "not there: no FID of ImageNet yet" if needed else "not there (optional)", how, needed=needed
        )
    try:
        file = read_reference(path)
    except DataError as error:
        return failure(shown, str(error), how)
    images = f"{len(file.images):,} images" if file.images is not None else "no images"
    statistics = "statistics" if file.pool is not None else "no statistics"
    return ok(shown, f"{statistics} and {images}, sha256 {file.sha256[:12]} (nobody publishes one)")


def latents(name: str, *, needed: bool) -> Finding:
    """ImageNet's latents: every cheap check that a run makes before its first step. `harness data verify` reads all."""
    from harness.data import sources
    from harness.data.latents.sets import LatentStore
    from harness.system.errors import DataError

    folder = sources.data_folder() / name
    how = f"harness data encode IMAGENET/train --size {name.rpartition('-')[2]} --out {folder}"
    if not folder.is_dir():
        return _absent(
            name, "not there: no training on ImageNet yet" if needed else "not there (optional)", f"Run: {how}",
            needed=needed,
        )  # fmt: skip
    try:
        store = LatentStore(folder)
    except DataError as error:
        return failure(name, str(error), f"Continue it, or make it anew: {how}")
    return ok(name, f"{len(store):,} latents of {store.vae}; harness data verify {folder} reads all of them")


def round_trip(id: str) -> Iterator[Finding]:
    """Decode(encode(x)) of photographs, the latents scaled and unscaled between as training and sampling do it.

    Nothing where its weights are not: that is told by `vae`, and nothing was tried that could be called ok.
    """
    from harness.data.latents import vae as vaes

    if id in vaes.PUBLISHED and vaes.PUBLISHED[id].find() is None:
        return
    name, (ratio, spread, exact) = "VAE round trip", measured(vaes.load(id))
    found = f"{ratio:.1f} dB on two photographs, scaled latents of deviation {spread:.2f}"
    if not exact:
        yield failure(name, f"{found}; scaling and unscaling changes latents", "Report it: this is a bug.")
    elif ratio < LEAST_PSNR:
        yield failure(name, f"{found}; {LEAST_PSNR:g} dB are expected at least", "Fetch the VAE's weights again.")
    else:
        yield ok(name, found)


def measured(vae) -> tuple[float, float, bool]:
    """PSNR in dB, the deviation of the scaled latents, and whether scaling them there and back is exact."""
    import torch
    from sklearn.datasets import load_sample_images

    from harness.evaluation.generation import decoder
    from harness.evaluation.images.uint8 import to_uint8

    crops = []
    for image in load_sample_images().images:  # (427, 640, 3) uint8
        top, left = ((side - CROP) // 2 for side in image.shape[:2])
        crops.append(torch.from_numpy(image[top : top + CROP, left : left + CROP].copy()))
    images = torch.stack(crops).permute(0, 3, 1, 2)
    mean, _ = vae.moments(images).chunk(2, dim=1)
    scaled = vae.scale * mean
    back = to_uint8(decoder(vae)(scaled)).permute(0, 3, 1, 2)
    error = (back.double() - images.double()).square().mean()
    ratio = 10 * torch.log10(255**2 / error)
    return float(ratio), float(scaled.std()), torch.allclose(scaled / vae.scale, mean, rtol=1e-6, atol=0)


def _absent(name: str, found: str, how: str, *, needed: bool = True) -> Finding:
    return warning(name, found, how) if needed else ok(name, found, how)


def _judged(name: str, path: Path, sha256: str, how: str) -> Finding:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        size = path.stat().st_size
        return failure(name, f"{path} is another file, of {size:,} bytes and sha256 {found[:12]}", f"Replace it: {how}")
    return ok(name, f"{path}, sha256 {sha256[:12]} as pinned")
