"""Headless Chromium, spoken to through two pipes, with the standard library alone. It looks at pages and never serves.

The DevTools protocol is JSON, one message ended by a zero byte: Chromium reads its descriptor 3 and writes its 4.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
PATIENCE = 60  # seconds for an answer, on a machine that computes something else at the same time


class Chromium:
    """One browser with one tab."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        # The shell gives the pipes the numbers that Chromium expects.
        shell = ["sh", "-c", f'exec "$@" 3</dev/fd/{theirs_in} 4>/dev/fd/{theirs_out}', "sh"]
        self._process = subprocess.Popen(
            [*shell, program, *FLAGS, *as_root, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        os.set_blocking(self._in, False)
        self._last, self._unread = 0, b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []  # since the last page was opened
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command. Events that come before it are kept in `events`."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def wait_for(self, event: str) -> None:
        """Returns when `event` has come since the last `open` or comes now."""
        while not any(known.get("method") == event for known in self.events):
            self.events.append(self._next())

    def open(self, path: Path, *, width: int = 1280, dark: bool = False, scripts: bool = True) -> None:
        """Load a file in a window of that width, on a device that prefers dark or light colours."""
        self.events.clear()
        # Without `mobile` a page that is too wide is not shrunk to the window: it sticks out, and that can be measured.
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=812, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.send("Page.navigate", url=path.as_uri())
        self.wait_for("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is in the page, as JSON carries it."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key, as a keyboard gives it: its name and its number."""
        for kind, text in (("keyDown", "\r" if key == "Enter" else ""), ("keyUp", "")):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)

    def close(self) -> None:
        os.close(self._out)  # the end of its commands ends Chromium
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            assert time.monotonic() < until, "Chromium does not answer"
            assert self._process.poll() is None, f"Chromium ended with {self._process.returncode}"
            try:
                self._unread += os.read(self._in, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[Chromium]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs a Chromium: none of {', '.join(NAMES)} is installed")
    browser = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
