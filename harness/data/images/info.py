"""What a set of images is before anything is trained on it: classes, sizes, colours, and all that would be refused.

n images of a contact sheet, C channels, S side in pixels.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.data import sources
from harness.data.dataset import Dataset
from harness.data.images import fitting, image_folder
from harness.system.errors import DataError

SHEET_CLASSES, SHEET_IMAGES = 10, 10  # of a contact sheet: so many classes, so many images of each
PIECE = 1024  # images read at once
SHEET_SIDE = 64  # pixels of an image in it, where they differ in size

Stage = Callable[[int], Callable[[int], None]]


@dataclass
class Description:
    """A set of images in numbers, and the first images of each class."""

    name: str
    classes: list[str]
    counts: Counter[int] = field(default_factory=Counter)  # of images that can be read, by class
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (H, W)
    modes: Counter[str] = field(default_factory=Counter)  # "grey" or "RGB"
    refused: list[str] = field(default_factory=list)  # what keeps the set from being trained on
    remarks: list[str] = field(default_factory=list)  # what must be said for it to be trained on, or is to be known
    shown: list[Image.Image] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)  # of those shown

    def add(self, image: Image.Image, label: int) -> None:
        """Count an image that can be read, and keep it for the contact sheet where it is one of the first."""
        self.counts[label] += 1
        self.sizes[image.height, image.width] += 1
        self.modes["grey" if image.mode == "L" else "RGB"] += 1
        if label < SHEET_CLASSES and self.counts[label] <= SHEET_IMAGES:
            self.shown.append(image)
            self.labels.append(label)

    @property
    def document(self) -> dict[str, Any]:
        """For printing."""
        return {
            "name": self.name,
            "num_images": self.counts.total(),
            "num_classes": len(self.classes),
            "class_counts": {name: self.counts[label] for label, name in enumerate(self.classes)},
            "sizes": {f"{width} x {height}": count for (height, width), count in self.sizes.most_common()},
            "modes": dict(self.modes.most_common()),
            "refused": self.refused,
            "remarks": self.remarks,
        }

    def sheet(self) -> tuple[Tensor, Tensor]:  # (n, S, S, C) uint8, (n,)
        """The images of a contact sheet and their classes. Raises DataError where there are none."""
        if not self.shown:
            raise DataError(f"{self.name} holds no image that can be read, so there is nothing for a contact sheet.")
        sizes = {(image.height, image.width) for image in self.shown}
        side = max(sizes)[0] if len(sizes) == 1 and min(sizes)[0] <= SHEET_SIDE else SHEET_SIDE
        mode = "L" if all(image.mode == "L" for image in self.shown) else "RGB"
        squares = [np.asarray(fitting.squared(image.convert(mode), side)) for image in self.shown]
        return torch.from_numpy(np.stack(squares).reshape(len(squares), side, side, -1)), torch.tensor(self.labels)


def describe(name: str, stage: Stage) -> Description:
    """The images in a folder, an .npz or the data set of this name, each read. Raises as `sources.load` does.

    Of a folder, what cannot be read becomes part of the answer. `stage` gets the number of images, and gives what is
    called with the number of those that are done.
    """
    path = Path(name)
    if name in sources.names() or not path.is_dir():
        return _of_data(sources.load(name), stage)
    return _of_folder(path, stage)


def _of_folder(folder: Path, stage: Stage) -> Description:
    found = image_folder.examined(folder, flat=True)
    description = Description(folder.resolve().name, found.class_names, refused=list(found.problems))
    advance = stage(len(found.files))
    decoder = image_folder.Decoder(folder, 1)
    for start in range(0, len(found.files), PIECE):
        piece = found.files[start : start + PIECE]
        for (_, _, label), image in zip(piece, decoder.each([file for file, _, _ in piece]), strict=True):
            if isinstance(image, DataError):
                description.refused.append(str(image))
            else:
                description.add(image, label)
        advance(start + len(piece))
    _conclude(description)
    return description


def _of_data(data: Dataset, stage: Stage) -> Description:
    """Those that are held out come behind the others."""
    parts = [data, *([data.held_out] if data.held_out else [])]
    if data.vae is not None or data.channels not in (1, 3):
        raise DataError(f"{data.name} holds no images: an image has 1 channel or 3, and these have {data.channels}.")
    description = Description(data.name, [str(label) for label in range(data.num_classes)])
    advance, done = stage(sum(map(len, parts))), 0
    for part in parts:
        for start in range(0, len(part), PIECE):
            stored, labels = part.read(torch.arange(start, min(start + PIECE, len(part))))
            levels = stored if stored.dtype == torch.uint8 else (127.5 * (stored + 1)).round().to(torch.uint8)
            for image, label in zip(levels.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True):
                description.add(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), label)
            done += len(labels)
            advance(done)
    if data.held_out:
        description.remarks.append(f"{len(data.held_out):,} of the images are held out: {data.held_out_by}.")
    return description


def _conclude(description: Description) -> None:
    """What a run would say of the set as a whole."""
    if description.counts.total() and max(description.counts.values()) < 2:
        description.refused.append(
            f"{description.name} holds no two images of one class. A tenth is held out for measuring, so at least one "
            "class needs two."
        )
    if description.sizes:
        try:
            fitting.side_of(description.name, description.sizes, None)
        except DataError as error:
            description.remarks.append(str(error))
