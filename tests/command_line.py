"""The command line in a process of its own, as a user starts it."""

import os
import subprocess
import sys

QUICK_EVALUATION = ["--set", "num_images=60", "--set", "sampling.num_steps=3"]


def harness(*arguments, cwd, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        **options,
    )
