"""Files that users reported: the command accepted them, or its message named the wrong cause."""

import numpy as np
import pytest

import harness
from harness.system.errors import DataError


def evaluated(path, **arrays):
    np.savez(path, **arrays)
    harness.evaluate(path, features="digits")


def test_a_label_that_no_class_has_is_named_with_its_place_even_without_a_reference(tmp_path):
    images, labels = np.zeros((5, 8, 8, 1), np.uint8), np.array([0, 1, 2, -3, 4])
    with pytest.raises(DataError, match=r"-3.*\b3\b|\b3\b.*-3"):
        evaluated(tmp_path / "labeled.npz", arr_0=images, arr_1=labels)


def test_images_under_another_key_are_missed_by_the_key_that_is_read(tmp_path):
    with pytest.raises(DataError, match=r"no arr_0.*pictures"):
        evaluated(tmp_path / "a_key.npz", pictures=np.zeros((5, 8, 8, 1), np.uint8))
