"""Folders of photographs: what is cut out of an image, how classes are numbered, what a step makes of them."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from harness.data.images.fitting import adm_centre_crop
from harness.data.images.image_folder import ImageFolder, listing
from harness.data.latents import vae
from harness.evaluation.generation import decoder
from harness.model.randomness import Draw
from harness.system.errors import DataError, UsageError

SIZE = 32
CLASSES = ("n01440764", "n01443537", "n02123045")


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """A Chinese temple and a flower, 640 x 427 pixels."""
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@pytest.fixture
def folder(tmp_path, photographs) -> Path:
    """Three classes of one to three photographs, of several formats, sizes and colour models."""
    root = tmp_path / "photos"
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    temple, flower = photographs
    temple.save(root / CLASSES[1] / "b.JPEG", quality=95)
    temple.crop((100, 50, 300, 400)).save(root / CLASSES[1] / "a.png")
    temple.convert("CMYK").save(root / CLASSES[1] / "c.jpg")
    flower.convert("L").save(root / CLASSES[0] / "grey.jpeg")
    flower.save(root / CLASSES[2] / "really_a_png.JPEG", format="PNG")
    (root / CLASSES[2] / "notes.txt").write_text("not an image")
    (root / ".cache").mkdir()
    return root


@pytest.fixture
def data(folder) -> ImageFolder:
    return ImageFolder(folder, vae_id="random-tiny", image_size=SIZE)


# The crop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(640, 427), (64, 65), (31, 500), (32, 32), (33, 1000), (4000, 3000)])
def test_the_crop_is_a_square_of_the_size_that_was_asked_for(shape):
    assert adm_centre_crop(Image.new("RGB", shape), 32).size == (32, 32)


@pytest.mark.parametrize("shape", [(640, 400), (256, 512), (100, 64)])  # cut alike at both sides
def test_cropping_and_mirroring_can_change_places(shape, photographs):
    image = photographs[1].resize(shape)
    mirror = Image.Transpose.FLIP_LEFT_RIGHT
    one, other = adm_centre_crop(image.transpose(mirror), 64), adm_centre_crop(image, 64).transpose(mirror)
    assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1  # Pillow rounds to 8 bits


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981, a = -0.5."""
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


def box(x: np.ndarray) -> np.ndarray:
    return (np.abs(x) <= 0.5).astype(float)


def resized(pixels: np.ndarray, count: int, kernel, support: float) -> np.ndarray:
    """Along the first axis: a kernel stretched by the ratio of sizes, normalised inside the image; 8 bits again."""
    ratio = len(pixels) / count
    centres = (np.arange(count) + 0.5) * ratio
    distances = (np.arange(len(pixels)) + 0.5 - centres[:, None]) / max(ratio, 1)
    weights = np.where(np.abs(distances) < support, kernel(distances), 0)
    sums = np.tensordot(weights / weights.sum(1, keepdims=True), pixels, axes=1)
    return np.floor(sums + 0.5).clip(0, 255)


def as_described(pixels: np.ndarray, size: int) -> np.ndarray:
    """ADM's centre crop without Pillow, rows first."""

    def both(pixels: np.ndarray, height: int, width: int, kernel, support: float) -> np.ndarray:
        across = resized(pixels.swapaxes(0, 1), width, kernel, support).swapaxes(0, 1)
        return resized(across, height, kernel, support)

    while min(pixels.shape[:2]) >= 2 * size:
        pixels = both(pixels, pixels.shape[0] // 2, pixels.shape[1] // 2, box, 0.6)
    scale = size / min(pixels.shape[:2])
    pixels = both(pixels, round(pixels.shape[0] * scale), round(pixels.shape[1] * scale), cubic, 2)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


@pytest.mark.parametrize("size", [64, 100, 256])
def test_the_crop_is_what_its_description_says(size, photographs):
    photograph = photographs[0].crop((0, 0, 640, 424))  # whole pixels at every halving
    cropped = np.asarray(adm_centre_crop(photograph, size), dtype=float)
    expected = as_described(np.asarray(photograph, dtype=float), size)
    assert np.abs(cropped - expected).max() <= 1
    assert np.abs(cropped - expected).mean() < 0.01


# Classes and labels ----------------------------------------------------------------------------------------------


def test_classes_are_numbered_by_name_and_images_sorted(folder):
    found = listing(folder)
    assert found.class_names == list(CLASSES)
    names = ["grey.jpeg", "a.png", "b.JPEG", "c.jpg", "really_a_png.JPEG"]
    assert [file.split("/")[1] for file in found.files] == names
    assert found.labels.tolist() == [0, 1, 1, 1, 2]


def test_the_hash_is_of_names_and_sizes_and_not_of_the_place(folder, tmp_path):
    before = listing(folder).sha256
    assert listing(folder.rename(tmp_path / "moved")).sha256 == before
    with open(tmp_path / "moved" / CLASSES[0] / "grey.jpeg", "ab") as file:
        file.write(b"\0")
    assert listing(tmp_path / "moved").sha256 != before


def emptied(folder: Path) -> Path:
    for path in (folder / CLASSES[1]).iterdir():
        path.unlink()
    return folder


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda f: f / "absent", "cannot be listed: No such file"),
        (lambda f: f / CLASSES[1] / "a.png", "cannot be listed: Not a directory"),
        (lambda f: f / CLASSES[1], "holds 3 images that belong to no class"),
        (lambda f: f / ".cache", "holds no folders"),
        (lambda f: f.parent, "photos the folder to give"),
        (emptied, "the class n01443537 of .* holds no image"),
    ],
)
def test_what_is_no_folder_of_classes_is_refused_with_the_mend(given, says, folder):
    with pytest.raises(DataError, match=says):
        listing(given(folder))


def test_an_imagenet_that_lacks_images_or_classes_is_remarked_on(tmp_path, photographs, caplog):
    for number in range(1000):
        (tmp_path / f"n{number:08d}").mkdir()
        (tmp_path / f"n{number:08d}" / "1.JPEG").touch()
    with caplog.at_level(logging.WARNING):
        assert len(listing(tmp_path).files) == 1000
    assert "1,000 images; the training set 1,281,167 and the validation set 50,000. Some may be missing" in caplog.text
    (tmp_path / "n00000007" / "1.JPEG").unlink()
    (tmp_path / "n00000007").rmdir()
    with caplog.at_level(logging.WARNING):
        listing(tmp_path)
    assert "999 classes of ImageNet; ILSVRC2012 has 1,000" in caplog.text


# The data set ----------------------------------------------------------------------------------------------------


def test_it_reads_cropped_rgb_images_of_every_format(data, folder):
    assert (len(data), data.num_classes, data.channels, data.side, data.name) == (5, 3, 4, 4, "photos")
    stored, labels = data.read(torch.tensor([4, 0, 3]))
    assert stored.shape == (3, 3, SIZE, SIZE)
    assert stored.dtype == torch.uint8
    assert labels.tolist() == [2, 0, 1]
    with Image.open(folder / CLASSES[2] / "really_a_png.JPEG") as image:
        expected = np.asarray(adm_centre_crop(image.convert("RGB"), SIZE))
    assert np.array_equal(stored[0].permute(1, 2, 0).numpy(), expected)
    assert torch.equal(stored[1, 0], stored[1, 1])  # grey


def test_the_second_half_of_the_indices_reads_mirror_images(data):
    straight, labels = data.read(torch.tensor([0, 4]))
    mixed, labels_again = data.read(torch.tensor([5, 4]))
    assert torch.equal(mixed[0], straight[0].flip(-1))
    assert torch.equal(mixed[1], straight[1])
    assert torch.equal(labels, labels_again)


def test_a_training_image_is_a_scaled_sample_of_the_posterior(data):
    stored, _ = data.read(torch.arange(5))
    torch.manual_seed(1)
    clean = data.to_clean(stored, Draw.all_of(stored))
    mean, std = vae.load("random-tiny").moments(stored).chunk(2, dim=1)
    torch.manual_seed(1)
    assert torch.allclose(clean, 0.18215 * (mean + std * torch.randn(5, 4, 4, 4)))
    torch.manual_seed(1)
    rows = data.to_clean(stored[2:4], Draw(5, 2, 4, stored.device))
    assert torch.allclose(rows, clean[2:4], atol=1e-6)  # however the batch is cut into processes


def test_generated_latents_are_decoded_by_the_same_vae(data):
    clean = torch.randn(2, 4, 4, 4)
    decode = decoder(vae.load(data.vae, clean.device, sha256=data.vae_sha256))
    assert torch.equal(decode(clean), vae.load("random-tiny").decode(clean / 0.18215))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:20000]), "truncated"),
        (lambda p: p.write_bytes(b"\0" * 500), "cannot identify"),
        (lambda p: p.write_bytes(b""), "cannot identify"),
        (lambda p: (p.unlink(), p.mkdir()), "Is a directory"),
        (lambda p: Image.new("RGB", (40, 40)).save(p, format="TIFF"), "cannot identify"),
    ],
)
def test_a_damaged_image_is_named_with_the_mend(damage, says, data, folder):
    damage(folder / CLASSES[1] / "b.JPEG")
    data.read(torch.tensor([0, 1]))
    with pytest.raises(
        DataError, match=f"{folder}/{CLASSES[1]}/b.JPEG is damaged or no image .*{says}.*Fetch it again"
    ):
        data.read(torch.tensor([0, 1, 2]))


def test_an_image_size_that_the_vae_cannot_halve_is_refused(folder):
    with pytest.raises(UsageError, match="image size 36 is no multiple of 8"):
        ImageFolder(folder, vae_id="random-tiny", image_size=36)
