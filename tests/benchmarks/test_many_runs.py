"""Reading, judging, comparing and reporting a thousand run folders, and reading the published numbers.

What is asked of `compare` and `report`: at most 10 s and 500 MB each, by `make bench`'s record.
"""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import write_run

from harness.papers import published
from harness.papers.claims import judge
from harness.records.evidence import gather
from harness.records.folders.listing import survey

NUM_SEEDS = 25
METHODS = ("dit", "maskdit", "mdt", "sddit")
MASK_RATIOS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
RATES = (1e-3, 3e-4, 1e-4, 3e-5)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory) -> Path:
    """Four methods at three budgets and seven mask ratios at four learning rates, over 25 seeds."""
    root = tmp_path_factory.mktemp("thousand")
    for seed in range(NUM_SEEDS):
        for steps in (600, 1200, 2400):
            for i, method in enumerate(METHODS):
                write_run(
                    root, method, seed=seed, speed=10.0 - i, distance=5.0 - i + seed / 50, protocol={"steps": steps},
                    milestones={step: 9.0 - step / steps for step in range(150, steps, 150)},
                )  # fmt: skip
        for rate in RATES:
            for ratio in MASK_RATIOS:
                knobs, protocol = {"mask_ratio": ratio}, {"learning_rate": rate, "steps": 900}
                write_run(root, "sddit", seed=seed, distance=3.0 + ratio, knobs=knobs, protocol=protocol)
    return root


@pytest.mark.parametrize("command", ["compare", "report"])
def test_a_thousand_runs(benchmark, command, thousand, tmp_path):
    arguments = [sys.executable, "-m", "harness", command, str(thousand), "--out", str(tmp_path / command)]

    def run():
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)

    benchmark.extra_info["runs"] = NUM_SEEDS * (3 * len(METHODS) + len(RATES) * len(MASK_RATIOS))
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    # The highest of any child of this process so far: an upper bound of this one's.
    benchmark.extra_info["peak_mib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def test_listing_a_thousand_runs(benchmark, thousand):
    assert len(benchmark.pedantic(survey, ([thousand],), rounds=3, warmup_rounds=1)) == 1000


def test_judging_a_thousand_runs(benchmark, thousand):
    assert benchmark.pedantic(judge, (gather([thousand]),), rounds=3, warmup_rounds=1)


def test_reading_the_published_numbers(benchmark):
    assert len(benchmark(published._rows.__wrapped__))
