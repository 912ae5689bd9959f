"""Published weights: where they are looked for, what is refused there, and what an absent one says."""

import hashlib
import re
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.data.latents import vae
from harness.evaluation.networks import inception, transformers_networks
from harness.model.pretrained import Pretrained
from harness.system import downloads
from harness.system.errors import DataError, SetupError

NOWHERE = "http://127.0.0.1:9/refused.pth"
CONTENT = b"the published weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ALL = [
    *vae.PUBLISHED.values(),
    inception.PUBLISHED,
    transformers_networks.DINOV2.published,
    transformers_networks.CLIP.published,
]
BY_URL = replace(inception.PUBLISHED, url=NOWHERE, sha256=SHA256)
OF_THE_HUB = replace(transformers_networks.DINOV2.published, sha256=SHA256)
EACH = pytest.mark.parametrize("published", [BY_URL, OF_THE_HUB], ids=["by url", "of the hub"])


pytestmark = pytest.mark.usefixtures("no_weights")


def placed(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def places(published: Pretrained, tmp_path: Path) -> list[Path]:
    """Where the file may lie, the place that is preferred first."""
    given, cache, file = tmp_path / "given", tmp_path / "cache" / published.folder, published.file
    if published.repository:
        name = published.repository.split("/")[1]
        snapshot = f"models--{published.repository.replace('/', '--')}/snapshots/{published.revision}"
        return [given / name / file, cache / name / file, given / file, tmp_path / "hub" / snapshot / file]
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    return [given / file, cache / file, *(checkpoints / name for name in (file, *published.other_names))]


@EACH
def test_the_file_is_looked_for_where_the_user_says_then_in_the_cache_and_then_where_others_keep_it(
    published, tmp_path, monkeypatch
):
    monkeypatch.setenv("HARNESS_FEATURES", str(tmp_path / "given"))
    assert published.find() is None
    for place in reversed(places(published, tmp_path)):
        placed(place)
        assert (published.find(), published.get()) == (place, place)


@EACH
@pytest.mark.parametrize("number", range(4))
def test_another_file_in_its_place_is_refused_with_both_hashes(published, tmp_path, monkeypatch, number):
    monkeypatch.setenv("HARNESS_FEATURES", str(tmp_path / "given"))
    place = placed(places(published, tmp_path)[number], b"others")
    found = hashlib.sha256(b"others").hexdigest()
    with pytest.raises(DataError, match=f"its sha256 is {found} instead of {SHA256}.*HARNESS_FEATURES") as refused:
        published.get()
    assert str(place) in str(refused.value)


@EACH
def test_offline_the_error_names_the_file_its_address_its_hash_and_where_to_put_it(published, tmp_path):
    with pytest.raises(SetupError) as refused:
        published.get()
    error = str(refused.value)
    assert f"Fetch {published.address} (sha256 {SHA256}) to {places(published, tmp_path)[1]}, or into" in error
    assert "HARNESS_FEATURES" in error
    assert "\n" not in error
    assert ("give --weights FILE" in error) == (published is BY_URL)
    placed(Path(re.search(r" to (/\S+),", error)[1]))  # what it says to do helps
    assert published.get().read_bytes() == CONTENT


def test_an_absent_file_is_downloaded_once_into_the_cache(tmp_path):
    there = placed(tmp_path / "server" / "file")
    published = replace(BY_URL, url=there.as_uri())
    assert published.get() == published.home
    assert [path.name for path in published.home.parent.iterdir()] == [published.file]
    assert BY_URL.get() == published.home  # without the server


def test_another_answer_than_the_published_file_is_not_kept(tmp_path):
    page = placed(tmp_path / "log in first.html", b"<html>")
    found = hashlib.sha256(b"<html>").hexdigest()
    with pytest.raises(SetupError, match=f"what came was 6 bytes of sha256 {found}"):
        replace(BY_URL, url=page.as_uri()).get()
    assert BY_URL.find() is None


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(downloads, "PATIENCE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(SetupError, match="could not be downloaded: timed out"):
            replace(BY_URL, url=f"http://127.0.0.1:{silent.getsockname()[1]}/").get()
        assert time.monotonic() - start < 10


def test_a_cache_that_cannot_be_written_is_reported_as_such(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    there = placed(tmp_path / "server" / "file")
    with pytest.raises(SetupError, match=r"could not be downloaded: .*(Not a directory|File exists)"):
        replace(BY_URL, url=there.as_uri()).get()


@pytest.mark.parametrize("published", ALL, ids=lambda each: each.name)
def test_every_published_file_is_fetched_by_https_and_pinned(published):
    assert published.address.startswith("https://")
    assert re.fullmatch("[0-9a-f]{64}", published.sha256)
    assert published.url or re.fullmatch("[0-9a-f]{40}", published.revision)
    if published.url:  # torch.hub names files by the beginning of their hash
        for name in (published.file, *published.other_names):
            assert name.endswith(f"-{published.sha256[:8]}.pth")
