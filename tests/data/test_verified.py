"""A file is hashed once, again when it has changed, and never trusted for its name alone."""

import hashlib
import os

import pytest

from harness.data.latents import verified
from harness.system import files as files_module


@pytest.fixture
def files(tmp_path):
    contents = {"a": b"one", "b": b"two"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed from here on."""
    names, original = [], files_module.sha256_of

    def noted(path):
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(files_module, "sha256_of", noted)
    return names


def test_what_has_not_changed_is_not_read_again(tmp_path, files, hashed):
    assert verified.damaged(tmp_path, files) == []
    assert verified.damaged(tmp_path, files) == []
    assert hashed == ["a", "b"]


def test_a_change_of_the_same_size_is_found(tmp_path, files):
    verified.damaged(tmp_path, files)
    (tmp_path / "b").write_bytes(b"2wo")
    os.utime(tmp_path / "b", ns=(1, 1))
    assert verified.damaged(tmp_path, files) == ["b"]
    assert verified.damaged(tmp_path, files) == ["b"]  # and is not forgotten


def test_another_expectation_is_checked_anew(tmp_path, files):
    verified.damaged(tmp_path, files)
    assert verified.damaged(tmp_path, {**files, "a": "0" * 64}) == ["a"]


def test_a_damaged_record_costs_time_alone(tmp_path, files, hashed):
    verified.damaged(tmp_path, files)
    verified._record(tmp_path).write_text("{ torn")
    assert verified.damaged(tmp_path, files) == []
    assert hashed == ["a", "b"] * 2
