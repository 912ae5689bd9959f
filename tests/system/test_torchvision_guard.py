"""Each test imports in a fresh interpreter: what an interpreter has imported cannot be taken back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
WITH_ITS_OWN_OPERATOR = f"""
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms{SIGNATURE}")
"""


def run(code: str, *folders: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*folders, ROOT]))}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def fake_torchvision(folder: Path, source: str) -> Path:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(source)
    return folder


def test_what_needs_torchvision_is_imported_after_the_guard_also_where_a_first_import_failed():
    code = """
try:
    import torchvision
except RuntimeError:
    pass
from harness.system import torchvision_guard
torchvision_guard.install()
torchvision_guard.install()
import torchvision.ops, torch_fidelity, cleanfid.fid
torchvision_guard.install()
print("imported")
"""
    result = run(code)
    assert result.stdout == "imported\n", result.stderr


def test_nothing_is_defined_beside_a_torchvision_whose_operators_load(tmp_path):
    code = """
import torch
from harness.system import torchvision_guard
torchvision_guard.install()
import torchvision
print(hasattr(torch.ops.torchvision, "nms"), hasattr(torch.ops.torchvision, "qnms"))
"""
    result = run(code, fake_torchvision(tmp_path, WITH_ITS_OWN_OPERATOR))
    assert result.stdout == "True False\n", result.stderr  # a stand-in would have brought qnms too


def test_a_fault_of_torchvision_that_is_not_a_missing_operator_is_not_hidden(tmp_path):
    source = WITH_ITS_OWN_OPERATOR + "raise RuntimeError('compiled with another CUDA')"
    code = "from harness.system import torchvision_guard; torchvision_guard.install()"
    result = run(code, fake_torchvision(tmp_path, source))
    assert result.returncode != 0
    assert result.stderr.endswith("RuntimeError: compiled with another CUDA\n")
