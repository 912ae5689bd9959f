"""A machine for the doctor to check."""

import pytest


@pytest.fixture(autouse=True)
def nothing_there(tmp_path, monkeypatch):
    """A machine without weights, whose caches are in this test's folder."""
    for name in ("HARNESS_FEATURES", "HARNESS_VAE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HARNESS_CACHE", "HARNESS_DATA", "TORCH_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
