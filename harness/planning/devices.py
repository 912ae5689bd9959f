"""What GPUs can do at most, from NVIDIA's data sheets: matrix products by precision, and memory bandwidth."""

import re
from typing import NamedTuple

TERA, GIGA = 1e12, 1e9


class Device(NamedTuple):
    """A GPU's peak in TFLOP/s with dense matrices, None for a type it cannot multiply, and its memory's GB/s.

    Figures that a data sheet gives "with sparsity" are halved. Devices of one family have the same peaks.
    """

    name: str
    family: str
    torch_name: str  # a pattern of what torch.cuda.get_device_name says, whole: a laptop's 4090 is another device
    fp32: float
    tf32: float | None
    bf16: float | None
    bandwidth: float
    source: str

    def peak(self, precision: str) -> float | None:
        """FLOP/s of matrix products in this precision."""
        peak = {"fp32": self.fp32, "tf32": self.tf32, "bf16": self.bf16}[precision]
        return None if peak is None else peak * TERA

    @property
    def bytes_per_second(self) -> float:
        """That its memory can read and write together."""
        return self.bandwidth * GIGA


_A100 = "FP32 19.5, TF32 156 | 312*, BFLOAT16 312 | 624*"

DEVICES = (
    Device(
        "V100 SXM2", "V100 SXM2", r"(Tesla )?V100-SXM2-(16|32)GB", 15.7, None, None, 900,
        "NVIDIA A100 architecture whitepaper, comparison of data center GPUs: FP32 15.7, TF32 and BF16 NA, "
        "memory bandwidth 900 GB/s",
    ),
    Device(
        "A100 40GB", "A100", r"(NVIDIA )?A100-(SXM4|PCI[eE])-40GB", 19.5, 156, 312, 1555,
        f"NVIDIA A100 datasheet, 40GB: {_A100}, 1,555 GB/s for SXM and PCIe alike",
    ),
    Device(
        "A100 80GB SXM", "A100", r"(NVIDIA )?A100-SXM4-80GB", 19.5, 156, 312, 2039,
        f"NVIDIA A100 80GB datasheet (1758950-r4), SXM: {_A100}, 2,039 GB/s",
    ),
    Device(
        "A100 80GB PCIe", "A100", r"(NVIDIA )?A100(-PCI[eE]-80GB| 80GB PCIe)", 19.5, 156, 312, 1935,
        f"NVIDIA A100 80GB datasheet (1758950-r4), PCIe: {_A100}, 1,935 GB/s",
    ),
    Device(
        "RTX 4090", "RTX 4090", r"(NVIDIA )?GeForce RTX 4090", 82.6, 82.6, 165.2, 1008,
        "NVIDIA Ada architecture whitepaper v2.1, appendix A: FP32 82.6, TF32 82.6/165.2, "
        "BF16 with FP32 accumulate 165.2/330.4, memory bandwidth 1008 GB/sec",
    ),
    Device(
        "L40S", "L40S", r"(NVIDIA )?L40S", 91.6, 183, 362.05, 864,
        "NVIDIA L40S datasheet: FP32 91.6, TF32 183 | 366*, BFLOAT16 362.05 | 733*, 864GB/s",
    ),
    Device(
        "H100 SXM", "H100 SXM", r"(NVIDIA )?H100 80GB HBM3", 67, 989 / 2, 1979 / 2, 3350,
        "NVIDIA H100 datasheet, SXM: FP32 67, TF32 989*, BFLOAT16 1,979*, 3.35TB/s",
    ),
    Device(
        "H200 SXM", "H200 SXM", r"(NVIDIA )?H200", 67, 989 / 2, 1979 / 2, 4800,
        "NVIDIA H200 datasheet, SXM: FP32 67, TF32 989*, BFLOAT16 1,979*, 4.8TB/s",
    ),
)  # fmt: skip


def device_named(torch_name: str) -> Device | None:
    """The device that torch.cuda.get_device_name calls so; None for one that is not in the table."""
    return next((device for device in DEVICES if re.fullmatch(device.torch_name, torch_name)), None)


def peak_flops(torch_name: str, precision: str) -> float | None:
    """FLOP/s that the device of this name reaches at most; None where the table has no such device or peak."""
    device = device_named(torch_name)
    return device and device.peak(precision)
