"""How long `harness doctor` takes, all of it: a minute is what is asked of it on two cores."""

import json
import subprocess
import sys


def test_the_whole_doctor(benchmark, tmp_path):
    command = [sys.executable, "-m", "harness", "doctor", "--json"]
    done = benchmark.pedantic(
        lambda: subprocess.run(command, cwd=tmp_path, capture_output=True, text=True), rounds=1, iterations=1
    )
    benchmark.extra_info.update(json.loads(done.stdout)["summary"])
