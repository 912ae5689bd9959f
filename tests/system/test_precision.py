"""Which precisions a device has."""

import platform

import pytest
import torch

from harness.system import precision
from harness.system.errors import SetupError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_a_processor_has_fp32_and_no_tf32_and_bf16_only_if_it_does_not_imitate_it(monkeypatch):
    precision.require("fp32", CPU)
    with pytest.raises(SetupError, match=r"no TF32.*--precision fp32") as caught:
        precision.require("tf32", CPU)
    assert caught.value.exit_code == 3
    assert precision._cpu_has_bf16() in (True, False)
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: True)
    precision.require("bf16", CPU)
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: False)
    with pytest.raises(SetupError, match="no instructions for bfloat16"):
        precision.require("bf16", CPU)


@pytest.mark.parametrize(
    ("machine", "own", "slower"), [("x86_64", False, True), ("x86_64", True, False), ("aarch64", False, False)]
)
def test_bf16_is_said_to_be_slower_where_it_is_imitated(machine, own, slower, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: own)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precision.slower_than_fp32("bf16", CPU) == slower
    assert not precision.slower_than_fp32("fp32", CPU)
    assert not precision.slower_than_fp32("bf16", GPU)


@pytest.mark.parametrize("asked", ["tf32", "bf16"])
def test_a_gpu_before_ampere_multiplies_in_fp32_alone(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100-SXM2-16GB")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    with pytest.raises(SetupError, match=rf"--precision is {asked}.* V100.* has 7\.0; take --precision fp32"):
        precision.require(asked, GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    precision.require(asked, GPU)
    precision.require("fp32", GPU)
