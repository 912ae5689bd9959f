"""Which precisions a device has."""

import pytest
import torch

from harness.system import precision
from harness.system.errors import SetupError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_every_device_has_fp32():
    precision.require("fp32", CPU)
    precision.require("fp32", GPU)


def test_a_processor_has_no_tf32():
    with pytest.raises(SetupError, match=r"no TF32.*--precision fp32") as caught:
        precision.require("tf32", CPU)
    assert caught.value.exit_code == 3


def test_bf16_is_refused_by_a_processor_that_would_only_imitate_it(monkeypatch):
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: True)
    precision.require("bf16", CPU)
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: False)
    with pytest.raises(SetupError, match="no instructions for bfloat16"):
        precision.require("bf16", CPU)


@pytest.mark.parametrize("asked", ["tf32", "bf16"])
def test_a_gpu_before_ampere_multiplies_in_fp32_alone(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100-SXM2-16GB")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    with pytest.raises(SetupError, match=rf"--precision is {asked}.* V100.* has 7\.0; take --precision fp32"):
        precision.require(asked, GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    precision.require(asked, GPU)


def test_this_processor_says_whether_it_has_bf16():
    assert precision._cpu_has_bf16() in (True, False)
