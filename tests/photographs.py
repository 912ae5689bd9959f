"""Folders of real photographs."""

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images


def photographs(folder: Path, count: int, height: int, width: int, suffix: str = ".png") -> Path:
    """`count` pieces of each of scikit-learn's two photographs, a class each."""
    for name, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            top, left = 17 * number % (427 - height), 23 * number % (640 - width)
            Image.fromarray(photograph[top : top + height, left : left + width]).save(
                folder / name / f"{number:02d}{suffix}"
            )
    return folder
