"""Processes that meet and add up tensors, started as `harness run --nproc` starts them.

`python -m harness.checks.doctor.processes N` starts them, and is one of them where the launcher's environment says so.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.checks.doctor.finding import Finding, failure, ok, warning

START_SECONDS = 30.0  # for the first of them to have imported torch
MEET_SECONDS = 20.0  # from then on; on a machine that is not busy both take a moment
POLL_SECONDS = 0.05
HERE = "the first process is here"
AGREED = "all-reduce of {} processes by {}"


def all_reduce(nproc: int) -> Finding:
    """`nproc` processes join and sum a tensor: by nccl where each has a GPU, else by gloo."""
    import torch

    name, gpus = "all-reduce", torch.cuda.device_count()
    environment = {**os.environ} if gpus >= nproc else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(variable, None)  # of a job that the doctor is called in
    for variable in [each for each in environment if each.startswith("SLURM_")]:
        del environment[variable]
    mend = (
        "A firewall or network name may be in the way: try GLOO_SOCKET_IFNAME=lo, or with GPUs NCCL_DEBUG=INFO; "
        "one process, without --nproc, needs none of it."
    )
    with tempfile.TemporaryDirectory() as folder:
        code, said, errors = _attended(nproc, environment, Path(folder))
    backend = "nccl" if gpus >= nproc else "gloo"
    if code is None and HERE in said:
        return failure(name, f"{nproc} processes by {backend} did not meet within {MEET_SECONDS:.0f} s", mend)
    if code is None:
        return warning(
            name, f"the processes did not start within {START_SECONDS:.0f} s", "Repeat it on a quieter machine."
        )
    if code or AGREED.format(nproc, backend) not in said:
        told = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), f"exit code {code}")
        return failure(name, f"{nproc} processes by {backend}: {told}", mend)
    untried = f"; nccl, which needs {nproc} GPUs, is not tried" if backend == "gloo" and gpus else ""
    return ok(name, f"{nproc} processes by {backend}, started as --nproc does{untried}")


def _attended(nproc: int, environment: dict[str, str], folder: Path) -> tuple[int | None, str, str]:
    """The exit code of the processes together, None when they took too long and were killed; stdout and stderr."""
    with open(folder / "stdout", "wb") as said, open(folder / "stderr", "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.checks.doctor.processes", str(nproc)],
            env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=errors,
        )  # fmt: skip
    deadline, here = time.monotonic() + START_SECONDS, False
    while process.poll() is None and time.monotonic() < deadline:
        if not here and HERE in (folder / "stdout").read_text(encoding="utf-8"):
            here, deadline = True, time.monotonic() + MEET_SECONDS
        time.sleep(POLL_SECONDS)
    code = process.poll()
    process.kill()  # what it started is killed with it, by the kernel
    process.wait()
    left = [(folder / name).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr")]
    return code, left[0], left[1]


def main() -> int:
    """Start the processes, or be one of them. The exit code is the run's."""
    from harness.system.processes import launch

    nproc = int(sys.argv[1])
    if "RANK" not in os.environ:
        return launch.run_processes(
            nproc, [str(nproc)], entry=(sys.executable, "-m", "harness.checks.doctor.processes")
        )
    import torch
    import torch.distributed as dist

    if launch.current().is_main:
        print(HERE, flush=True)
    with launch.joined() as world:
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        values = torch.arange(4.0, device=device) + world.rank
        dist.all_reduce(values)
        wanted = torch.arange(4.0) * world.size + sum(range(world.size))
        if not torch.equal(values.cpu(), wanted):
            print(f"error: the sum is {values.tolist()} instead of {wanted.tolist()}", file=sys.stderr)
            return 1
        if world.is_main:
            print(AGREED.format(world.size, dist.get_backend()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
