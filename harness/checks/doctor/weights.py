"""Weights, references and data: whether they are there with the right hash, and how to get them."""

from typing import TYPE_CHECKING

from harness.checks.finding import Finding, failure, ok, warning
from harness.system.files import in_words, sha256_of

if TYPE_CHECKING:
    from harness.model.pretrained import Pretrained


def published(name: str, without: str = "", how: str = "") -> Finding:
    """The weights of "inception", of a VAE by its id, of "dinov2" or "clip"; `without` says what cannot be done yet."""
    weights = _pretrained(name)
    path = weights.find()
    if path is None:
        advice = f"{how}The file is downloaded when first needed; offline, {weights.advice}."
        return _absent(without, advice)
    sha256 = sha256_of(path)
    if sha256 != weights.sha256:
        found = f"{path} is another file, of {path.stat().st_size:,} bytes and sha256 {sha256[:12]}"
        return failure(found, f"Replace it: {weights.advice}.")
    return ok(f"{path}, sha256 {sha256[:12]} as pinned")


def _pretrained(name: str) -> "Pretrained":
    from harness.data.latents import vae
    from harness.evaluation.networks import inception, transformers_networks

    if name == "inception":
        return inception.PUBLISHED
    if name in vae.PUBLISHED:
        return vae.PUBLISHED[name]
    return transformers_networks.ARCHITECTURES[name].published


def reference(name: str, without: str = "") -> Finding:
    """One of ADM's reference batches. Their hashes are not published; an evaluation checks the content."""
    from harness.data.sources import data_folder
    from harness.evaluation.references import PUBLISHED

    path = data_folder() / "references" / name
    if not path.is_file():
        return _absent(without, f"Fetch {PUBLISHED[name]} to {path}.")
    return ok(f"{path}, {in_words(path.stat().st_size)}")


def latents(name: str, without: str = "") -> Finding:
    """ImageNet's latents: every quick check that a run makes before its first step. `harness data verify` reads all."""
    from harness.data.latents.sets import LatentStore
    from harness.data.sources import data_folder
    from harness.system.errors import DataError

    folder = data_folder() / name
    how = f"harness data encode IMAGENET/train --size {name.rpartition('-')[2]} --out {folder}"
    if not folder.is_dir():
        return _absent(without, f"Run: {how}")
    try:
        store = LatentStore(folder)
    except DataError as error:
        return failure(str(error), f"Continue it, or make it again: {how}")
    return ok(f"{len(store):,} latents of {store.vae}; harness data verify {folder} reads all of them")


def _absent(without: str, how: str) -> Finding:
    return warning(f"not there: {without}", how) if without else ok("not there (optional)", how)
