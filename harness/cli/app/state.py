"""The state of the command that is being carried out: its switches, and the options that settings set."""

import os
from typing import Any

from harness.system.settings import Settings, Value


class State:
    """There is one for the whole program. `reset` is called before each command, and `restore` after it."""

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}
        self.reset()

    def reset(self) -> None:
        self.quiet = self.debug = self.no_settings = False
        self.found: Settings | None = None  # all that is set, as this command read it
        self.typed: dict[str, Any] = {}  # options that were typed, by name, with their values
        self.taken: dict[str, Value] = {}  # options that were not typed but set, by name: "--precision"

    def set_variable(self, name: str, value: str) -> None:
        """Set an environment variable, for this program and those it starts, until `restore`."""
        self._before.setdefault(name, os.environ.get(name))
        os.environ[name] = value

    def restore(self) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before.clear()


state = State()
