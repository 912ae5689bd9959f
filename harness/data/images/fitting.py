"""Bringing images of any size to one square: the one rule, for training and for measuring.

H height, W width, C channels, S side of the square, all in pixels.
"""

from collections.abc import Collection

from PIL import Image

from harness.system.errors import DataError

RULE = "smaller ones get a black border, larger ones are cut as ADM cuts ImageNet."
LARGEST_UNASKED = 64  # pixels: a network that sees pixels has (S / patch)^2 tokens, so larger ones must be asked for


def adm_centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square of a grey or RGB image, `size` pixels wide, as ADM (Dhariwal & Nichol 2021) and DiT cut it.

    Box-averaged to half its size while the smaller side stays at least twice `size`, then bicubically resized until
    the smaller side is `size`, then cut in the middle.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def squared(image: Image.Image, size: int) -> Image.Image:
    """An image no larger than the square, in its middle on black; any other as `adm_centre_crop` cuts it."""
    if image.size == (size, size):
        return image
    if max(image.size) > size:
        return adm_centre_crop(image, size)
    square = Image.new(image.mode, (size, size))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def described(sizes: Collection[tuple[int, int]], side: int) -> str | None:
    """What `squared` does to images of these sizes (H, W), for records; None: nothing."""
    padded = any(max(size) <= side and size != (side, side) for size in sizes)
    cut = any(max(size) > side for size in sizes)
    done = [*(["padded with black"] if padded else []), *(["cut as ADM cuts"] if cut else [])]
    return f"{' or '.join(done)} to {side} x {side}" if done else None


def side_of(name: str, sizes: Collection[tuple[int, int]], asked: int | None) -> int:
    """The side of the square that images of these sizes (H, W) are brought to: `asked`, or the one that all have.

    Raises DataError when nothing was asked for and they have none in common, are no squares, or are large.
    """
    if asked is not None:
        return asked
    shown = ", ".join(f"{width} x {height}" for height, width in sorted(sizes)[:3])
    say = f"Say to which size to bring them, like --set size=32: {RULE}"
    if len(sizes) > 1:
        raise DataError(
            f"{name} holds images of {len(sizes):,} sizes ({shown}{', ...' if len(sizes) > 3 else ''}). {say}"
        )
    ((height, width),) = sizes
    if height != width:
        raise DataError(f"the images of {name} are {shown}, and the network takes squares. {say}")
    if height > LARGEST_UNASKED:
        raise DataError(
            f"the images of {name} are {shown}, which takes a network that sees pixels much memory and time. {say} "
            f"--set size={height} keeps them as they are."
        )
    return height
