import re

import pytest

from harness.planning.devices import DEVICES, device_named, peak_flops


@pytest.mark.parametrize(
    ("torch_name", "precision", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A100-SXM4-40GB", "tf32", 156e12),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5e12),
        ("NVIDIA A100-PCIE-40GB", "fp32", 19.5e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5e12),
        ("NVIDIA H200", "tf32", 494.5e12),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("NVIDIA L40S", "fp32", 91.6e12),
        ("Tesla V100-SXM2-32GB", "fp32", 15.7e12),
        ("Tesla V100-SXM2-32GB", "bf16", None),
        ("NVIDIA H200 NVL", "bf16", None),  # slower parts with a name that begins alike
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA GeForce RTX 4090 D", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("NVIDIA H100 PCIe", "bf16", None),
        ("NVIDIA H100 80GB HBM3e", "bf16", None),
        ("Intel(R) Xeon(R) Processor", "fp32", None),
    ],
)
def test_a_device_has_the_peak_of_its_data_sheet_or_none(torch_name, precision, peak):
    assert peak_flops(torch_name, precision) == peak


@pytest.mark.parametrize(
    ("torch_name", "gigabytes"),
    [
        ("Tesla V100-SXM2-16GB", 900), ("NVIDIA A100-SXM4-40GB", 1555), ("A100-PCIE-40GB", 1555),
        ("NVIDIA A100-SXM4-80GB", 2039), ("NVIDIA A100 80GB PCIe", 1935), ("NVIDIA GeForce RTX 4090", 1008),
        ("NVIDIA L40S", 864), ("NVIDIA H100 80GB HBM3", 3350), ("NVIDIA H200", 4800),
    ],
)  # fmt: skip
def test_a_device_has_the_bandwidth_of_its_data_sheet(torch_name, gigabytes):
    assert device_named(torch_name).bytes_per_second == gigabytes * 1e9


def test_no_name_fits_two_devices():
    assert len({device.name for device in DEVICES}) == len(DEVICES)
    for name in ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe", "NVIDIA A100-PCIE-40GB", "NVIDIA H200"):
        assert sum(re.fullmatch(device.torch_name, name) is not None for device in DEVICES) == 1


def test_devices_of_one_family_have_the_same_peaks():
    """Where only arithmetic counts, one row stands for all of them."""
    for family in {device.family for device in DEVICES}:
        assert len({(d.fp32, d.tf32, d.bf16) for d in DEVICES if d.family == family}) == 1


def test_every_figure_names_its_source():
    for device in DEVICES:
        assert "NVIDIA" in device.source
        digits = f"{device.bandwidth:,.0f}"
        assert any(text in device.source for text in (digits, digits.replace(",", ""), f"{device.bandwidth / 1e3:g}TB"))
        assert device.bf16 is None or device.tf32 <= device.bf16
