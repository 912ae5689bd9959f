"""Energy that a GPU has drawn, as its driver counts it."""

from collections.abc import Callable

import torch

Joules = Callable[[], float]  # since some moment in the past


def counter(device: torch.device) -> Joules | None:
    """A reading of the device's energy counter, or None where there is none: a CPU, no NVML, a GPU without one.

    NVML is in the package nvidia-ml-py (the extra "energy").
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
