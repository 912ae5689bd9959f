"""Processes that meet and add up tensors, started as `harness run --nproc` starts them.

`python -m harness.checks.doctor.processes N` starts them, and is one of them where the launcher's environment says so.
"""

import os
import subprocess
import sys

from harness.checks.finding import Finding, failure, ok, warning

SECONDS = 40.0  # on a machine that is not busy they need a few
HERE = "the first process is here"
AGREED = "all-reduce of {} processes by {}"
OF_A_JOB = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ADVICE = (
    "A firewall or network name may be in the way: try GLOO_SOCKET_IFNAME=lo, or with GPUs NCCL_DEBUG=INFO; "
    "one process, without --nproc, needs none of it."
)


def all_reduce(nproc: int) -> Finding:
    """`nproc` processes join and sum a tensor: by nccl where each has a GPU, else by gloo."""
    import torch

    gpus = torch.cuda.device_count()
    backend = "nccl" if gpus >= nproc else "gloo"
    environment = {k: v for k, v in os.environ.items() if k not in OF_A_JOB and not k.startswith("SLURM_")}
    if backend == "gloo":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "harness.checks.doctor.processes", str(nproc)],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as expired:
        if HERE in (expired.stdout or b"").decode(errors="replace"):
            return failure(f"{nproc} processes by {backend} did not meet within {SECONDS:.0f} s", ADVICE)
        return warning(f"the processes did not start within {SECONDS:.0f} s", "Repeat it on a quieter machine.")
    if done.returncode or AGREED.format(nproc, backend) not in done.stdout.decode(errors="replace"):
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        return failure(f"{nproc} processes by {backend}: {[f'exit code {done.returncode}', *lines][-1]}", ADVICE)
    untried = f"; nccl, which needs {nproc} GPUs, is not tried" if backend == "gloo" and gpus else ""
    return ok(f"{nproc} processes by {backend}, started as --nproc does{untried}")


def main() -> int:
    """Start the processes, or be one of them. The exit code is the run's."""
    from harness.system.processes import launch

    nproc = int(sys.argv[1])
    if "RANK" not in os.environ:
        entry = (sys.executable, "-m", "harness.checks.doctor.processes")
        return launch.run_processes(nproc, [str(nproc)], entry=entry)
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
