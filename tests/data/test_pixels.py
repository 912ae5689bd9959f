"""Images that a network sees without a VAE: what is held out, what is held in memory, what the hash is of."""

import pytest
import torch

from harness.data.images import pixels
from harness.data.images.pixels import Pixels, held_out_tenth, with_tenth_held_out
from harness.data.loader import Loader
from harness.system.errors import DataError, UsageError


def source(num_images: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (num_images, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return images, torch.arange(num_images) % 5


def pixels_of(images: torch.Tensor, labels: torch.Tensor) -> Pixels:
    shape = (3, 4, 5)
    return with_tenth_held_out("own", images.__getitem__, labels, shape=shape, fitting=None, known_by="listing")


@pytest.mark.parametrize("num_images", [6, 19, 50, 203])
def test_a_tenth_is_held_out_evenly_over_the_classes_and_never_trained_on(num_images):
    images, labels = source(num_images)
    data = pixels_of(images, labels)
    assert len(data.held_out) == max(1, num_images // 10)
    trained, held_out = ({image.numpy().tobytes() for image in part.everything()[: len(part)]}
                         for part in (data, data.held_out))  # fmt: skip
    assert not trained & held_out
    assert len(trained | held_out) == num_images
    counts = torch.bincount(data.held_out.labels, minlength=5)
    assert counts.max() - counts.min() <= 1
    assert set(data.labels.tolist()) == set(range(5))
    assert data.identity.held_out.by == "a seeded tenth of each class"


def test_the_same_images_have_the_same_tenth():
    _, labels = source(200)
    assert torch.equal(held_out_tenth("own", labels), held_out_tenth("own", labels))


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_images_of_which_none_can_be_spared_are_refused(labels):
    with pytest.raises(DataError, match="at least one class needs two images"):
        held_out_tenth("own", torch.tensor(labels))


def test_a_class_with_one_image_keeps_it():
    labels = torch.tensor([0] * 30 + [1])
    assert 30 not in held_out_tenth("own", labels).tolist()


def test_the_hash_follows_pixels_and_labels():
    images, labels = source(50)
    changed, known = images.clone(), pixels_of(images, labels).sha256
    changed[:, 0, 0, 0] ^= 1
    assert known == pixels_of(images.clone(), labels.clone()).sha256
    assert len({known, pixels_of(changed, labels).sha256, pixels_of(images, 4 - labels).sha256}) == 3


def test_a_set_beyond_the_bound_is_read_batch_by_batch_and_gives_the_same_images(monkeypatch):
    images, labels = source(50)
    held = pixels_of(images, labels)
    monkeypatch.setattr(pixels, "IN_MEMORY_BYTES", 1000)
    asked = []

    def read(places: torch.Tensor) -> torch.Tensor:
        asked.append(len(places))
        return images[places]

    streamed = with_tenth_held_out("own", read, labels, shape=(3, 4, 5), fitting=None, known_by="listing")
    assert (held.in_memory, streamed.in_memory) == (True, False)
    assert isinstance(streamed.sha256, str)
    assert asked == []  # its hash is of what its source says
    indices = torch.tensor([0, 44, 45, 89])
    for a, b in zip(held.read(indices), streamed.read(indices), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UsageError, match="residency=host"):
        streamed.everything()


def test_both_residencies_train_on_the_same_images_mirrored_alike():
    data = pixels_of(*source(50))
    batches = []
    for resident in (False, True):
        with Loader(
            data, seed=3, batch_size=16, flips=True, rows=slice(0, 16), first_step=2,
            device=torch.device("cpu"), resident=resident,
        ) as loader:  # fmt: skip
            batches.append(loader.next())
    assert torch.equal(batches[0].stored, batches[1].stored)
    assert torch.equal(batches[0].labels, batches[1].labels)
