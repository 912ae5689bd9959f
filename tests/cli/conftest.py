"""Run folders that the tests of `harness runs` share."""

from pathlib import Path

import pytest
from run_folders import unfinished, write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds of one configuration, another one, an unfinished and a damaged run, and what is no run."""
    root = tmp_path / "runs"
    write_run(root, "dit", seed=0, distance=5.125)
    write_run(root, "dit", seed=1, distance=None)
    write_run(root / "sweep", "sddit", knobs={"mask_ratio": 0.5}, distance=11.9)
    unfinished(root)
    damaged = write_run(root, "mdt")
    (damaged / "manifest.json").write_text((damaged / "manifest.json").read_text()[:100])
    (root / "notes" / "old").mkdir(parents=True)
    (root / "other").mkdir()
    (root / "other" / "config.yaml").write_text("learning_rate: 1\n")
    (root / "README.md").write_text("about runs")
    return root
