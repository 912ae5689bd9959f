"""Image files: every pixel as it is in the file or a refusal that names it, for training and for measuring alike."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.images import reading
from harness.data.images.image_folder import Decoder, listing
from harness.evaluation.images.image_sets import PngFolder
from harness.system.errors import DataError

SIDE = 6
COLOUR = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
GREY = COLOUR[..., :1].repeat(3, axis=2)
BLACK_OR_WHITE = np.where(GREY > 127, 255, 0).astype(np.uint8)
OPAQUE, THIN = np.full((SIDE, SIDE, 1), 255, np.uint8), np.full((SIDE, SIDE, 1), 254, np.uint8)


def save(file: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels.squeeze())
    (image.convert(mode) if mode else image).save(file, **options)
    return file


def raw_png(pixels: np.ndarray, bits: int, colour: int, transparent: bytes = b"") -> bytes:
    """A PNG of a kind that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(b"tRNS", transparent) if transparent else b"") + b"".join(
        [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )  # fmt: skip


GREY_16, COLOUR_16 = GREY[..., :1].astype(">u2") * 105, COLOUR.astype(">u2") * 105  # as grey16.png: about 27,000
KINDS = {  # what is in one.png, and its pixels in RGB or the refusal
    "RGB": (lambda f: save(f, COLOUR), COLOUR),
    "grey": (lambda f: save(f, GREY[..., 0]), GREY),
    "one bit": (lambda f: save(f, BLACK_OR_WHITE[..., 0], "1"), BLACK_OR_WHITE),
    "palette": (lambda f: save(f, GREY[..., 0], "P"), GREY),
    "opaque RGBA": (lambda f: save(f, np.dstack([COLOUR, OPAQUE])), COLOUR),
    "opaque grey and alpha": (lambda f: save(f, np.dstack([GREY[..., :1], OPAQUE])), GREY),
    "RGBA": (lambda f: save(f, np.dstack([COLOUR, THIN])), "partly transparent"),
    "grey and alpha": (lambda f: save(f, np.dstack([GREY[..., :1], THIN])), "partly transparent"),
    "palette, one transparent": (lambda f: save(f, GREY[..., 0], "P", transparency=int(GREY[0, 0, 0])), "partly"),
    "RGB with a transparent colour": (
        lambda f: f.write_bytes(raw_png(COLOUR, 8, 2, struct.pack(">HHH", *COLOUR[2, 2].tolist()))),
        "partly transparent",
    ),
    "grey with 16 bits": (lambda f: f.write_bytes(raw_png(GREY_16, 16, 0)), "has 16 bits a channel"),
    "grey and alpha with 16 bits": (lambda f: f.write_bytes(raw_png(np.dstack([GREY_16] * 2), 16, 4)), "has 16 bits"),
    "RGB with 16 bits": (lambda f: f.write_bytes(raw_png(COLOUR_16, 16, 2)), "has 16 bits a channel"),
    "RGBA with 16 bits": (lambda f: f.write_bytes(raw_png(np.dstack([COLOUR_16, GREY_16]), 16, 6)), "has 16 bits"),
    "several frames": (
        lambda f: save(f, COLOUR, save_all=True, append_images=[Image.fromarray(255 - COLOUR)]),
        "holds 2 frames",
    ),
}  # fmt: skip


def for_training(file: Path) -> np.ndarray:
    return Decoder(file.parent, SIDE).decode([file.name])[0].permute(1, 2, 0).numpy()


def for_measuring(file: Path) -> np.ndarray:
    return np.broadcast_to(PngFolder(file.parent).read(0, 1)[0].numpy(), (SIDE, SIDE, 3))


@pytest.mark.parametrize("reader", [for_training, for_measuring])
@pytest.mark.parametrize(("write", "expected"), KINDS.values(), ids=KINDS)
def test_pixels_are_read_exactly_or_the_file_is_refused_by_name(write, expected, reader, tmp_path):
    file = tmp_path / "a" / "one.png"
    file.parent.mkdir()
    write(file)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=f"one.png .*{expected}"):
            reader(file)
    else:
        assert np.array_equal(reader(file), expected)


@pytest.mark.parametrize("format", ["WEBP", "BMP", "JPEG"])
def test_other_formats_are_read_for_training_or_refused(format, tmp_path):
    lossless = save(tmp_path / "one", COLOUR, format=format, **({"lossless": True} if format == "WEBP" else {}))
    with Image.open(lossless) as image:
        assert np.array_equal(for_training(lossless), np.array(image.convert("RGB")))
    if format == "WEBP":
        moving = [Image.fromarray(255 - COLOUR)]
        with pytest.raises(DataError, match=r"two.webp holds 2 frames"):
            for_training(save(tmp_path / "two.webp", COLOUR, save_all=True, append_images=moving))


def test_what_is_converted_is_named_once(tmp_path, caplog):
    file = save(tmp_path / "a.jpg", COLOUR, "CMYK")
    two = save(tmp_path / "b.jpg", COLOUR, format="MPO", save_all=True, append_images=[Image.fromarray(GREY)])
    for _ in range(2):
        for_training(file)
        for_training(two)
    assert [record.getMessage() for record in caplog.records] == [
        f"{file} is CMYK, converted to RGB without a colour profile, as ADM and DiT convert it.",
        f"{two} holds 2 pictures; the first is taken.",
    ]


# Files that would be left out ------------------------------------------------------------------------------------


def dangling(folder: Path, name: str) -> None:
    (folder / name).symlink_to(folder / "gone")


LEFT_OUT = {
    "GIF": (lambda f: save(f / "x.gif", COLOUR), r"x\.gif"),
    "TIFFs": (lambda f: [save(f / f"{i}.tiff", COLOUR) for i in range(7)], r"7 .*0\.tiff.*4\.tiff.* and 2 more"),
    "a GIF by another name": (lambda f: save(f / "x", COLOUR, format="GIF"), r"x .*a GIF"),
    "a GIF deeper": (lambda f: save(f / "b" / "c" / "x.gif", COLOUR), r"b/c/x\.gif"),
    "a link that leads back": (lambda f: (f / "b").symlink_to(f), "b is a link that leads back"),
    "broken link": (lambda f: dangling(f, "x.png"), r"1 of the entries of .*x\.png \(a link to .*gone, which is not"),
    "links in a circle": (lambda f: (f / "x.png").symlink_to(f / "x.png"), r"x\.png \(a link to"),
    "queue": (lambda f: os.mkfifo(f / "x.png"), r"x\.png \(neither a file nor a folder\)"),
    "no UTF-8": (lambda f: save(Path(os.fsdecode(bytes(f) + b"/\xff.png")), COLOUR), r"b'\\xff\.png', .*is not UTF-8"),
}


@pytest.mark.parametrize("open_folder", [listing, lambda root: PngFolder(root / "a")], ids=["training", "measuring"])
@pytest.mark.parametrize(("add", "says"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_no_image_is_left_out_in_silence(add, says, open_folder, tmp_path):
    save(tmp_path / "a" / "1.png", COLOUR)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "a" / ".thumbnails.gif").touch()
    (tmp_path / "a" / "empty").mkdir()
    open_folder(tmp_path)  # sound so far
    add(tmp_path / "a")
    with pytest.raises(DataError, match=says) as caught:
        open_folder(tmp_path)
    str(caught.value).encode()  # can be printed


def test_images_at_any_depth_are_those_of_their_class(tmp_path):
    for file in ("a/1.png", "a/x/y/2.png", "a/x/0.png", "b/3.png"):
        save(tmp_path / file, COLOUR)
    found = listing(tmp_path)
    assert found.files == ["a/1.png", "a/x/0.png", "a/x/y/2.png", "b/3.png"]
    assert found.labels.tolist() == [0, 0, 0, 1]
    assert len(PngFolder(tmp_path)) == 4


def test_images_beside_classes_and_links_that_led_to_classes_are_named(tmp_path):
    save(tmp_path / "a" / "1.png", COLOUR)
    save(tmp_path / "loose.png", COLOUR)
    with pytest.raises(DataError, match=r"1 images that belong to no class: loose\.png"):
        listing(tmp_path)
    (tmp_path / "loose.png").unlink()
    dangling(tmp_path, "b")
    with pytest.raises(DataError, match=r"b \(a link to .*gone, which is not there\)"):
        listing(tmp_path)


def test_a_folder_that_may_not_be_listed_is_told(tmp_path, monkeypatch):
    """The superuser may list every folder, so the system's answer is made here."""

    def refuse(folder: Path):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot be listed: Permission denied\. Check its permissions"):
        reading.listed(tmp_path)
