"""Benchmarks compute with every processor, unlike the tests."""

import pytest
import torch

from harness.launch import processors


@pytest.fixture(autouse=True)
def _all_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(processors())
    yield
    torch.set_num_threads(before)
