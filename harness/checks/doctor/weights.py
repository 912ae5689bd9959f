"""Weights, references and data: whether they are there with the right hash, and how to get them."""

from typing import TYPE_CHECKING

from harness.checks.doctor.words import in_words
from harness.checks.finding import Finding, failure, ok, warning

if TYPE_CHECKING:
    from harness.model.pretrained import Pretrained


def inception() -> Finding:
    """The feature network of every FID."""
    from harness.evaluation.networks.inception import PUBLISHED

    return _weights(PUBLISHED, "no FID yet")


def vae(id: str, *, needed: bool) -> Finding:
    """A published VAE's weights; `needed` by recipes."""
    from harness.data.latents.vae import PUBLISHED

    return _weights(PUBLISHED[id], "no images of latents yet", needed=needed)


def transformer(name: str) -> Finding:
    """The optional feature networks of FD-DINOv2 and CMMD, "dinov2" and "clip"."""
    from harness.evaluation.networks import transformers_networks as networks

    published = {"dinov2": networks.DINOV2, "clip": networks.CLIP}[name].published
    how = f"For --features {name}: pip install 'dit-harness[vit]'. "
    return _weights(published, "", needed=False, how=how)


def _weights(published: "Pretrained", without: str, *, needed: bool = True, how: str = "") -> Finding:
    from harness.system.files import sha256_of

    path = published.find()
    if path is None:
        advice = f"{how}The file is downloaded when first needed; offline, {published.advice}."
        return _absent(without, advice, needed=needed)
    sha256 = sha256_of(path)
    if sha256 != published.sha256:
        found = f"{path} is another file, of {path.stat().st_size:,} bytes and sha256 {sha256[:12]}"
        return failure(found, f"Replace it: {published.advice}.")
    return ok(f"{path}, sha256 {sha256[:12]} as pinned")


def reference(name: str, *, needed: bool) -> Finding:
    """One of ADM's reference batches. Their hashes are not published; an evaluation checks the content."""
    from harness.data.sources import data_folder
    from harness.evaluation.references import PUBLISHED

    path = data_folder() / "references" / name
    if not path.is_file():
        return _absent("no FID of ImageNet yet", f"Fetch {PUBLISHED[name]} to {path}.", needed=needed)
    return ok(f"{path}, {in_words(path.stat().st_size)}")


def latents(name: str, *, needed: bool) -> Finding:
    """ImageNet's latents: every quick check that a run makes before its first step. `harness data verify` reads all."""
    from harness.data.latents.sets import LatentStore
    from harness.data.sources import data_folder
    from harness.system.errors import DataError

    folder = data_folder() / name
    how = f"harness data encode IMAGENET/train --size {name.rpartition('-')[2]} --out {folder}"
    if not folder.is_dir():
        return _absent("no training on ImageNet yet", f"Run: {how}", needed=needed)
    try:
        store = LatentStore(folder)
    except DataError as error:
        return failure(str(error), f"Continue it, or make it again: {how}")
    return ok(f"{len(store):,} latents of {store.vae}; harness data verify {folder} reads all of them")


def _absent(without: str, how: str, *, needed: bool) -> Finding:
    return warning(f"not there: {without}", how) if needed else ok("not there (optional)", how)
