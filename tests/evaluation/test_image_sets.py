"""Images read in pieces: the same whatever they came in, and refused with the reason when they are not images."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensor_images import TensorImages

from harness.evaluation.images.image_sets import (
    NpzImages,
    PartImages,
    PngFolder,
    Subset,
    content_of,
    open_images,
    refuse_unusable,
)
from harness.evaluation.images.npz import write_npz
from harness.system.errors import DataError

COLOUR = np.random.default_rng(0).integers(256, size=(23, 6, 5, 3), dtype=np.uint8)
GREY = COLOUR[..., :1].copy()


def save_pngs(folder: Path, images: np.ndarray, name: str = "{:03d}.png") -> Path:
    for number, image in enumerate(images):
        file = folder / name.format(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, format="PNG")
    return folder


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def as_tensor(images, folder):
    return TensorImages("images", torch.from_numpy(images))


def as_stored_npz(images, folder):
    return open_images(saved(folder / "images.npz", arr_0=images))


def as_compressed_npz(images, folder):
    np.savez_compressed(folder / "images.npz", arr_0=images)
    return open_images(folder / "images.npz")


def as_own_npz(images, folder):
    write_npz(folder / "images.npz", {}, as_tensor(images, folder))
    return open_images(folder / "images.npz")


def as_pngs(images, folder):
    return open_images(save_pngs(folder / "images", images))


def as_pngs_in_folders(images, folder):
    save_pngs(folder / "images" / "a", images[:9])
    save_pngs(folder / "images" / "b", images[9:])
    return open_images(folder / "images")


def as_parts(images, folder, cuts=(4, 5, 5, 20)):
    paths = []
    for number, part in enumerate(np.split(images, cuts)):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], part)
    return PartImages("images", paths, images.shape[1:])


def as_subset(images, folder):
    more = np.insert(images, [0, 3, 3, 23], 7, axis=0)
    kept = [i for i in range(len(more)) if i not in (0, 4, 5, len(more) - 1)]
    return Subset(as_stored_npz(more, folder), torch.tensor(kept).flip(0))


KINDS = [
    as_tensor, as_stored_npz, as_compressed_npz, as_own_npz, as_pngs, as_pngs_in_folders, as_parts, as_subset,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [COLOUR, GREY], ids=["colour", "grey"])
def test_images_are_the_same_in_any_pieces_whatever_they_came_in(kind, images, tmp_path):
    found = kind(images, tmp_path)
    assert (len(found), found.shape) == (len(images), images.shape[1:])
    for start, stop in [(0, 23), (0, 1), (3, 7), (4, 5), (5, 20), (22, 23), (6, 6), (1, 2)]:
        piece = found.read(start, stop)
        assert piece.dtype == torch.uint8
        assert np.array_equal(piece.numpy(), images[start:stop])


@pytest.mark.parametrize("kind", KINDS)
def test_content_is_the_same_whatever_the_images_came_in(kind, tmp_path, monkeypatch):
    expected = content_of(as_tensor(COLOUR, tmp_path))
    monkeypatch.setattr("harness.evaluation.images.image_sets.PIECE_BYTES", 4 * 6 * 5 * 3)  # pieces of 4
    told = []
    assert content_of(kind(COLOUR, tmp_path), told.append) == expected
    assert told == [4, 8, 12, 16, 20, 23]


CHANGES = {
    "a pixel": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 777, x ^ 1, x),
    "the order": lambda x: x[::-1].copy(),
    "one image less": lambda x: x[:-1],
    "the shape": lambda x: x.reshape(23, 5, 6, 3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_images_have_another_hash(change, tmp_path):
    ours, theirs = (content_of(as_tensor(images, tmp_path)) for images in (COLOUR, change(COLOUR)))
    assert ours.sha256 != theirs.sha256


def test_content_counts_copies_flat_images_and_the_brightest_value():
    images = torch.from_numpy(COLOUR // 2)
    images[3], images[5] = images[1], images[1]
    images[7] = torch.tensor([1, 2, 3], dtype=torch.uint8)  # one colour, three channels
    images[8] = images[8, :1]  # one row repeated is not flat
    images[9] = 5
    images[9, -1, -1] = 6
    content = content_of(TensorImages("images", images))
    assert (content.num_distinct, content.num_flat, content.brightest) == (21, 1, int(images.max()))


# .npz ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "labels", "taken"),
    [
        ("labels", np.arange(23), True),
        ("arr_1", np.arange(23, dtype=np.uint16), True),
        ("arr_1", np.arange(23.0), False),
        ("arr_1", np.arange(22.0), False),
        ("arr_1", np.eye(23, dtype=int), False),
        ("classes", np.arange(23), False),
    ],
)
def test_labels_are_taken_where_they_can_only_be_labels(member, labels, taken, tmp_path):
    found = NpzImages(saved(tmp_path / "images.npz", arr_0=COLOUR, **{member: labels})).labels
    assert (found is not None) == taken
    if taken:
        assert found.dtype == torch.int64
        assert found.tolist() == list(range(23))


LABELS = {
    "negative": (np.where(np.arange(23) == 5, -3, 1), r"\[5\] is -3, and classes are numbered from 0"),
    "larger than any": (np.arange(2**64 - 23, 2**64, dtype=np.uint64), r"\[0\] is 18446744073709551593"),
    "too few": (np.arange(22), r"holds int64 of shape \(22,\), and there are 23 images"),
}


@pytest.mark.parametrize("name", ["labels", "arr_1"])
@pytest.mark.parametrize(("labels", "says"), LABELS.values(), ids=LABELS)
def test_labels_that_cannot_be_classes_are_refused_with_their_place(labels, says, name, tmp_path):
    with pytest.raises(DataError, match=f"images.npz: {name}.*{says}" if "holds" in says else f"npz: {name}{says}"):
        NpzImages(saved(tmp_path / "images.npz", arr_0=COLOUR, **{name: labels}))


def broken(value: float) -> np.ndarray:
    images = COLOUR / np.float32(255)
    images[2, 3] = value
    return images


WRONG = {
    "in [-1, 1]": (COLOUR / 127.5 - 1, r"holds float64 from -1 to 1 instead of uint8\. Save \(127\.5 \* x \+ 128\)"),
    "in [0, 1]": (COLOUR / np.float32(255), r"holds float32 from 0 to 1 .*Save \(255 \* x \+ 0\.5\)"),
    "in [0, 255]": (COLOUR.astype(np.int64), r"holds int64 from 0 to 255 .*Save x\.round\(\)\.clip\(0, 255\)"),
    "in float16": (COLOUR.astype(np.float16), r"holds float16 from 0 to 255 "),
    "nan": (broken(np.nan), r"15 of the first 2,070 values are not finite: the sampler diverged"),
    "infinite": (broken(-np.inf), r"not finite"),
    "complex": (COLOUR.astype(np.complex64), r"holds complex64\. Save numbers from 0 to 255"),
    "bool": (COLOUR > 99, r"holds bool\. Save numbers"),
    "channels first": (
        COLOUR.transpose(0, 3, 1, 2).copy(),
        r"Channels come first here: save x\.transpose\(0, 2, 3, 1\)",
    ),
    "without channels": (COLOUR[..., 0].copy(), r"has shape \(23, 6, 5\)\. Images are .*Save x\[\.\.\., None\]"),
    "four channels": (np.zeros((3, 6, 5, 4), np.uint8), r"has shape \(3, 6, 5, 4\)\. Images are \(N, H, W, C\) uint8"),
    "flattened": (COLOUR.reshape(23, -1), r"has shape \(23, 90\)"),
    "none": (COLOUR[:0], r"has shape \(0, 6, 5, 3\)"),
    "no pixels": (COLOUR[:, :0], r"has shape \(23, 0, 5, 3\)"),
    "columns first": (np.asfortranarray(COLOUR), r"not stored row by row"),
    "huge": (np.zeros((1, 2**13, 2**12, 1), np.uint8), r"8192 x 4096 pixels are larger than 4096 x 4096"),
    "pickled": (np.array([COLOUR, None], dtype=object), r"pickled Python objects"),
}


@pytest.mark.parametrize(("images", "says"), WRONG.values(), ids=WRONG)
def test_an_array_that_is_no_images_is_refused_with_what_it_is_and_how_to_mend_it(images, says, tmp_path):
    with pytest.raises(DataError, match=says) as caught:
        open_images(saved(tmp_path / "images.npz", arr_0=images))
    assert str(caught.value).startswith(str(tmp_path / "images.npz"))
    assert "\n" not in str(caught.value)


def test_what_is_advised_for_each_range_gives_the_images_back():
    for values, advice in ((COLOUR / 127.5 - 1, "(127.5 * x + 128)"), (COLOUR / 255, "(255 * x + 0.5)")):
        assert np.array_equal(eval(advice, {"x": values}).clip(0, 255).astype(np.uint8), COLOUR)


def test_a_file_without_images_says_what_it_holds(tmp_path):
    with pytest.raises(DataError, match=r"has no arr_0; it has pictures, labels\. Save the images as arr_0"):
        open_images(saved(tmp_path / "a.npz", pictures=COLOUR, labels=np.arange(23)))


def test_what_is_measured_is_under_adms_name_even_where_training_takes_another_too(tmp_path):
    """Another evaluator would not find the images, and its numbers are what these stand beside."""
    with pytest.raises(DataError, match=r"has no arr_0; it has images\. Save the images as arr_0"):
        open_images(saved(tmp_path / "a.npz", images=COLOUR))


def test_an_npz_is_known_by_its_content_too(tmp_path):
    saved(tmp_path / "a.npz", arr_0=COLOUR).rename(tmp_path / "images")
    assert len(open_images(tmp_path / "images")) == 23


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", b"\x93NUMPY", "neither an .npz with images as arr_0.* nor a folder of PNGs"),
        ("a.npz", b"", "a.npz is damaged, or no .npz"),
        ("a.npz", None, "there are no images at .*a.npz: no such file or folder"),
    ],
)
def test_a_path_that_leads_to_no_images_is_told(name, content, says, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        open_images(tmp_path / name)


def test_a_name_for_records_holds_no_path(tmp_path, monkeypatch):
    save_pngs(tmp_path / "mine", COLOUR)
    saved(tmp_path / "mine.npz", arr_0=COLOUR)
    monkeypatch.chdir(tmp_path / "mine")
    assert [open_images(Path(path)).name for path in (".", "../mine", "../mine.npz")] == ["mine", "mine", "mine.npz"]


# Folders ---------------------------------------------------------------------------------------------------------


def test_pngs_are_sorted_by_their_paths_and_folders_by_their_names(tmp_path):
    for number, name in enumerate(["a/2.png", "a/10.png", "a b/1.png", "b/0.png"]):
        save_pngs(tmp_path, COLOUR[number : number + 1], name)
    assert np.array_equal(PngFolder(tmp_path).read(0, 4).numpy(), COLOUR[[1, 0, 2, 3]])


def test_a_file_is_judged_by_its_content_and_not_by_its_name(tmp_path):
    save_pngs(tmp_path, COLOUR, "{:03d}.jpg")
    (tmp_path / "log.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image either")
    assert np.array_equal(PngFolder(tmp_path).read(0, 23).numpy(), COLOUR)


def jpeg(folder, name="one.png"):
    Image.fromarray(COLOUR[0]).save(folder / name, format="JPEG")


def png(folder, mode, **options):
    Image.fromarray(COLOUR[0]).convert(mode).save(folder / "one.png", **options)


def cut_short(folder, length=60):
    png(folder, "RGB")
    (folder / "one.png").write_bytes((folder / "one.png").read_bytes()[:length])


def pretending_to_be_huge(folder):
    png(folder, "RGB")
    content = bytearray((folder / "one.png").read_bytes())
    content[16:24] = struct.pack(">II", 2**30, 2**30)
    (folder / "one.png").write_bytes(content)


def of_two_sizes(folder):
    save_pngs(folder, COLOUR[:3])
    save_pngs(folder, COLOUR[:1, :5], "wide.png")


REFUSED = {
    "empty": (lambda folder: None, "holds no PNG images. Give a folder of PNGs"),
    "empty but for an npz": (lambda folder: saved(folder / "a.npz", arr_0=COLOUR), r"Give .*a\.npz, if that is meant"),
    "JPEG": (
        lambda folder: jpeg(folder, "one.jpg"),
        "is a JPEG, and only PNGs are taken. Lossy compression changes FID",
    ),
    "JPEG called PNG": (jpeg, "one.png is a JPEG, and only PNGs are taken"),
    "a JPEG among PNGs": (lambda folder: (save_pngs(folder, COLOUR), jpeg(folder, "x")), "x is a JPEG"),
    "a JPEG in a folder": (lambda folder: ((folder / "a").mkdir(), jpeg(folder / "a")), "one.png is a JPEG"),
    "WebP": (lambda folder: Image.fromarray(COLOUR[0]).save(folder / "one.webp"), "is a WebP"),
    "BMP": (lambda folder: Image.fromarray(COLOUR[0]).save(folder / "one.bmp"), "no image that can be read"),
    "text called PNG": (lambda folder: (folder / "one.png").write_text("hello"), "no image that can be read"),
    "two sizes": (of_two_sizes, r"several sizes: 000\.png is 5 x 6, wide\.png is 5 x 5"),
    "cut short": (cut_short, "one.png is damaged"),
    "cut in its header": (lambda folder: cut_short(folder, 20), "is damaged or no image"),
    "huge": (pretending_to_be_huge, "is damaged or no image"),
}


@pytest.mark.parametrize(("fill", "says"), REFUSED.values(), ids=REFUSED)
def test_a_folder_that_holds_no_sound_pngs_of_one_kind_is_refused_with_the_reason(fill, says, tmp_path):
    fill(tmp_path)
    with pytest.raises(DataError, match=says) as caught:
        PngFolder(tmp_path).read(0, 1)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_grey_images_beside_coloured_ones_are_read_as_rgb_and_counted(tmp_path):
    save_pngs(tmp_path, COLOUR[:3])
    save_pngs(tmp_path, GREY[:2], "grey{}.png")
    found = PngFolder(tmp_path)
    assert np.array_equal(found.read(0, 5).numpy(), np.concatenate([COLOUR[:3], GREY[:2].repeat(3, axis=3)]))
    assert found.notes == ("2 of the 5 images are grey and were read as RGB, the channel repeated.",)


def test_nothing_is_decoded_before_all_files_are_judged(tmp_path, monkeypatch):
    of_two_sizes(tmp_path)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(DataError, match="several sizes"):
        PngFolder(tmp_path)


# Parts and subsets -----------------------------------------------------------------------------------------------


PART_DAMAGES = {
    "missing": (lambda path: path.unlink(), "cannot be read"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is truncated"),
    "of another shape": (lambda path: np.save(path, GREY), "has shape"),
    "of another kind": (lambda path: np.save(path, COLOUR.astype(np.int8)), "holds int8 instead of uint8"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read: its header"),
}


@pytest.mark.parametrize(("damage", "says"), PART_DAMAGES.values(), ids=PART_DAMAGES)
def test_a_damaged_part_is_refused(damage, says, tmp_path):
    as_parts(COLOUR, tmp_path)
    damage(tmp_path / "3.npy")
    with pytest.raises(DataError, match=rf"3\.npy .*{says}.*Repeat the command"):
        PartImages("images", [tmp_path / f"{i}.npy" for i in range(5)], (6, 5, 3))


def test_a_part_that_shrinks_or_goes_while_it_is_read_is_told(tmp_path):
    images = as_parts(COLOUR, tmp_path)
    (tmp_path / "3.npy").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read: its header"):
        images.read(0, 23)
    (tmp_path / "3.npy").unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        images.read(0, 23)


def test_a_subset_keeps_the_labels_of_its_images_and_reads_forward():
    images = TensorImages("images", torch.from_numpy(COLOUR), torch.arange(23))
    subset = Subset(images, [9, 3, 4, 20])
    assert subset.labels.tolist() == [3, 4, 9, 20]
    assert torch.equal(subset.read(1, 4), torch.from_numpy(COLOUR[[4, 9, 20]]))


# Images of no use ------------------------------------------------------------------------------------------------


def judged(images: np.ndarray) -> None:
    found = TensorImages("some.npz", torch.from_numpy(images))
    refuse_unusable(found, content_of(found))


def test_images_of_use_are_not_refused():
    judged(COLOUR)
    judged(COLOUR[:1])
    judged(np.concatenate([COLOUR] * 2)[:46])  # every second one a copy: half, not most
    judged(np.repeat(COLOUR[:1], 19, axis=0))  # so few that copies may be meant


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ((COLOUR / 255).astype(np.uint8), r"no value in some\.npz exceeds 1: images in \[0, 1\] .*Save \(255 \* x"),
        (np.zeros_like(COLOUR), "no value in some.npz exceeds 0"),
        (np.full_like(COLOUR, 128), "every image in some.npz is of a single colour"),
        (np.broadcast_to(COLOUR[:, :1, :1], COLOUR.shape).copy(), "every image in some.npz is of a single colour"),
        (np.repeat(COLOUR[:9], 3, axis=0), "most of the 27 images in some.npz are copies: 9 differ"),
    ],
    ids=["in [0, 1]", "black", "grey", "flat", "copies"],
)
def test_images_that_can_only_be_a_mistake_are_refused(images, says):
    with pytest.raises(DataError, match=says):
        judged(images)
