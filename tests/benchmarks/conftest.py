"""Benchmarks compute with every processor, unlike the tests, and say on what."""

import pytest
import torch

import harness
from harness.records import machine, provenance
from harness.system.precision import default_device
from harness.system.processes.launch import processors


@pytest.fixture(autouse=True)
def _all_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(processors())
    yield
    torch.set_num_threads(before)


def pytest_benchmark_update_machine_info(config, machine_info):
    """The hardware and versions behind the numbers, and no name of a host."""
    machine_info.pop("node", None)
    machine_info["device"] = machine.describe(default_device()).model_dump()
    machine_info["processors"] = processors()
    machine_info["harness"] = harness.__version__
    machine_info["packages"] = provenance.installed()
