"""`python -m harness` and the `harness` command."""

import sys

from harness.system.allocator import keep_freed_memory
from harness.system.errors import Interrupted, Preempted
from harness.system.processes.signals import preemption_raises


def main() -> None:
    """Carry out the command line. Signals end it with their exit codes from the start, also while modules are read."""
    keep_freed_memory()
    again = "Repeat the command."
    try:
        with preemption_raises(again):
            from harness.cli import app

            app(prog_name="harness")
    except (KeyboardInterrupt, Preempted) as stopped:
        print(f"error: stopped before it began. {again}", file=sys.stderr)
        sys.exit(Preempted.exit_code if isinstance(stopped, Preempted) else Interrupted.exit_code)


if __name__ == "__main__":
    main()
