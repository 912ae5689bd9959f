"""Images of one's own: folders and .npz files as training sets, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import sources
from harness.data.images import pixels
from harness.system.errors import DataError, UsageError

COLOUR = np.random.default_rng(0).integers(256, size=(40, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze()).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """40 images of 8 x 8 in four classes, half of them in a folder further down."""
    for number, (image, label) in enumerate(zip(COLOUR, LABELS, strict=True)):
        deeper = "deeper/" if number % 8 < 4 else ""
        save(tmp_path / "own" / f"class {label}" / f"{deeper}{number:02d}.png", image)
    return tmp_path / "own"


def archived(path: Path, save=np.savez, **arrays: np.ndarray) -> Path:
    save(path, **arrays)
    return path


def all_images(data) -> set[bytes]:
    return {
        image.numpy().tobytes() for part in (data, data.held_out) for image in part.read(torch.arange(len(part)))[0]
    }


def test_a_folder_and_both_kinds_of_npz_are_the_same_images(folder, tmp_path):
    stored = archived(tmp_path / "stored.npz", arr_0=COLOUR, labels=LABELS)
    compressed = archived(tmp_path / "compressed.npz", np.savez_compressed, images=COLOUR, labels=LABELS)
    sets = [sources.load(str(path)) for path in (folder, stored, compressed)]
    for data in sets:
        assert data.shape.model_dump() == {"channels": 3, "side": 8, "num_classes": 4}
        assert (len(data), len(data.held_out)) == (36, 4)
        assert all_images(data) == {image.transpose(2, 0, 1).tobytes() for image in COLOUR}
        assert data.to_clean(data.read(torch.arange(36))[0], None).min() == -1
    assert sets[1].sha256 == sets[2].sha256


def test_grey_images_stay_grey_and_beside_coloured_ones_become_coloured(folder, tmp_path):
    for number in range(10):
        save(tmp_path / "grey" / "a" / f"{number}.png", COLOUR[number, ..., 0])
    assert sources.load(str(tmp_path / "grey")).channels == 1
    save(folder / "class 0" / "grey.png", COLOUR[0, ..., 0])
    assert sources.load(str(folder)).channels == 3


def test_images_in_no_folder_are_one_class(tmp_path):
    for number in range(20):
        save(tmp_path / "flat" / f"{number}.png", COLOUR[number])
    data = sources.load(str(tmp_path / "flat"))
    assert (data.num_classes, len(data), len(data.held_out)) == (1, 18, 2)
    archived(tmp_path / "flat.npz", arr_0=COLOUR)
    assert sources.load(str(tmp_path / "flat.npz")).num_classes == 1


def test_images_of_several_sizes_are_padded_or_cut_to_the_size_that_was_asked_for(folder):
    save(folder / "class 0" / "large.png", np.full((30, 20, 3), 200, np.uint8))
    with pytest.raises(DataError, match=r"2 sizes \(8 x 8, 20 x 30\)\. Say to which .*--set size=32"):
        sources.load(str(folder))
    data = sources.load(str(folder), size=16)
    assert data.side == 16
    assert data.identity.fitting == "padded with black or cut as ADM cuts to 16 x 16"
    small = data.read(torch.tensor([1]))[0][0]
    assert small[:, 4:12, 4:12].any()
    assert not small[:, :4].any()


def test_sets_beyond_the_bound_are_read_from_their_files(folder, tmp_path, monkeypatch):
    stored = archived(tmp_path / "stored.npz", arr_0=COLOUR, labels=LABELS)
    compressed = archived(tmp_path / "compressed.npz", np.savez_compressed, arr_0=COLOUR, labels=LABELS)
    held = [sources.load(str(path)) for path in (folder, stored)]
    monkeypatch.setattr(pixels, "IN_MEMORY_BYTES", 2000)
    for path, before in zip((folder, stored), held, strict=True):
        data = sources.load(str(path))
        assert not data.in_memory
        assert all_images(data) == all_images(before)
        assert data.sha256 == sources.load(str(path)).sha256
    with pytest.raises(DataError, match=r"compressed\.npz unpacks to .* Save it with numpy\.savez"):
        sources.load(str(compressed))


def of_two_cases(folder: Path) -> None:
    save(folder / "CLASS 1" / "1.png", COLOUR[0])


def sixteen_bits(folder: Path) -> None:
    Image.fromarray(COLOUR[0, ..., 0].astype(np.uint16) * 100).save(folder / "class 1" / "deep.png")


def transparent(folder: Path) -> None:
    Image.fromarray(np.dstack([COLOUR[0], COLOUR[0, ..., :1]])).save(folder / "class 1" / "clear.png")


def damaged(folder: Path) -> None:
    path = folder / "class 1" / "broken.png"
    save(path, COLOUR[0])
    path.write_bytes(path.read_bytes()[:-60])


WRONG = {  # what is done to a sound folder, and what the error says
    "empty class": (lambda f: (f / "class 9").mkdir(), r"the class class 9 of .* holds no image"),
    "one name in two cases": (of_two_cases, r"the classes CLASS 1 and class 1 of .* have one name"),
    "16 bits": (sixteen_bits, r"deep\.png has (16 bits|pixels of the kind I;16)"),
    "transparent": (transparent, r"clear\.png is partly transparent"),
    "damaged": (damaged, r"broken\.png is damaged"),
    "loose": (lambda f: save(f / "loose.png", COLOUR[0]), r"1 images that belong to no class: loose\.png"),
    "of another kind": (lambda f: save(f / "class 1" / "x.gif", COLOUR[0]), r"would be left out: class 1/x\.gif"),
    "link to nowhere": (lambda f: (f / "class 1" / "x.png").symlink_to(f / "gone"), r"x\.png \(a link to"),
}


@pytest.mark.parametrize(("spoil", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_folder_is_told_before_anything_is_written(spoil, says, folder, tmp_path):
    spoil(folder)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=says):
        _ = sources.load(str(folder)).identity  # reads the pixels, as a run does before it makes its folder
    assert sorted(tmp_path.rglob("*")) == before


def test_one_image_cannot_be_trained_on(tmp_path):
    save(tmp_path / "own" / "a" / "1.png", COLOUR[0])
    with pytest.raises(DataError, match=r"own holds 1 image.*at least one class needs two images"):
        sources.load(str(tmp_path / "own"))


@pytest.mark.parametrize("parts", [["train", "val"], ["Train"], ["everything"]])
def test_parts_of_a_data_set_are_not_taken_for_classes(parts, folder, tmp_path):
    for part in parts:
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / part).symlink_to(folder)
    with pytest.raises(DataError, match=f"Is .*/set/{parts[0]} the folder to give"):
        sources.load(str(tmp_path / "set"))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"arr_0": COLOUR, "labels": np.where(LABELS == 1, 0, LABELS)}, "no image has the class 1, though .* 3"),
        ({"arr_0": COLOUR, "labels": LABELS - 1}, r"labels\[0\] is -1"),
        ({"arr_0": COLOUR, "labels": LABELS[:-1]}, "there are 40 images"),
        ({"arr_0": COLOUR.transpose(0, 3, 1, 2), "labels": LABELS}, r"Channels come first.*transpose"),
        ({"arr_0": COLOUR[..., 0]}, r"Save x\[\.\.\., None\]"),
        ({"arr_0": COLOUR.astype(np.uint16)}, "holds uint16"),
        ({"arr_0": COLOUR / 255}, r"Save \(255 \* x"),
        ({"pictures": COLOUR}, "has no arr_0; it has pictures"),
        ({"arr_0": COLOUR[:, :6]}, r"8 x 6, and the network takes squares\. Say .*--set size=32"),
        ({"arr_0": COLOUR.repeat(20, 1).repeat(20, 2)}, "160 x 160, which takes .*--set size=160 keeps them"),
    ],
)
def test_an_npz_that_is_no_set_of_images_says_how_to_mend_it(arrays, says, tmp_path):
    with pytest.raises(DataError, match=says):
        sources.load(str(archived(tmp_path / "x.npz", **arrays)))


def test_what_is_no_data_set_names_what_could_be_given(tmp_path):
    for absent in (tmp_path / "absent", tmp_path / "absent.npz"):
        with pytest.raises(DataError, match=r"no folder or file .*absent.* a folder of images or of latents, an \.npz"):
            sources.load(str(absent))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no folders, no images and no latents"):
        sources.load(str(tmp_path / "empty"))
    (tmp_path / "x.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"x\.zip is damaged, or no \.npz"):
        sources.load(str(tmp_path / "x.zip"))


def test_images_where_latents_are_wanted_say_both_ways(folder):
    with pytest.raises(DataError, match=r"holds images, and this run trains on latents.*data encode.*vae=null"):
        sources.load(str(folder), vae="stabilityai/sd-vae-ft-ema")
    with pytest.raises(UsageError, match="leave --pipeline out"):
        sources.load(str(folder), pipeline="online-vae")
    with pytest.raises(UsageError, match=r"protocol\.size is 32.* digits is trained on as it is"):
        sources.load("digits", size=32)


def test_a_folder_that_may_only_be_read_is_enough(folder):
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(sources.load(str(folder))) == 36
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
