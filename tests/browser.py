"""Headless Chromium, driven over its own debugging pipe; nothing else has to be installed."""

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--mute-audio", "--hide-scrollbars"),
    *("--autoplay-policy=no-user-gesture-required", "--remote-debugging-pipe"),
)
_PATIENCE_MS = 30_000


class Browser:
    """One page of a browser.

    Attributes:
        errors: exceptions and messages of the page's console.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self.errors: list[str] = []
        self._commands, self._answers = os.fdopen(commands, "wb"), os.fdopen(answers, "rb")
        self._waiting, self._number, self._session = b"", 0, ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, url: str, *, width: int = 1280, height: int = 900) -> None:
        """Go to a page, on a screen of some size; errors are counted from here on."""
        self.errors.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._call("Page.navigate", url=url)
        self.run("new Promise(r => document.readyState === 'complete' ? r() : onload = r)")

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is awaited."""
        found = self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression holds; AssertionError if it never does."""
        held = self.run(
            f"new Promise(done => {{ const look = () => ({condition}) ? done(true) : "
            f"setTimeout(look, 10); look(); setTimeout(done, {_PATIENCE_MS}, false); }})"
        )
        assert held, f"{condition}; {self.errors}"

    def press(self, key: str) -> None:
        """Press and release a key, where the focus is."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def close(self) -> None:
        self._commands.close()
        self._answers.close()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = self._send(method, **parameters)
        while (message := self._next()).get("id") != number:
            self._note(message)
        assert "error" not in message, message["error"]
        result: dict[str, Any] = message["result"]
        return result

    def _send(self, method: str, **parameters: Any) -> int:
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        session = {"sessionId": self._session} if self._session else {}
        self._commands.write(json.dumps(command | session).encode() + b"\0")
        self._commands.flush()
        return self._number

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            data = self._answers.read1()
            assert data, "the browser has ended"
            self._waiting += data
        line, _, self._waiting = self._waiting.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        told = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(told["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(str(told["entry"]))
        elif message.get("method") == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {told['message']}")
            self._send("Page.handleJavaScriptDialog", accept=True)  # it halts the page


@contextmanager
def browse(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile; the test is skipped where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    (hers_in, ours_out), (ours_in, hers_out) = os.pipe(), os.pipe()
    hers_in, hers_out = _high(hers_in), _high(hers_out)
    line = f'exec "$0" "$@" 3<&{hers_in} 4>&{hers_out}'  # the numbers that Chromium expects
    command = ["bash", "-c", line, chromium, *_OPTIONS, f"--user-data-dir={profile}"]
    with subprocess.Popen(
        command,
        pass_fds=(hers_in, hers_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(hers_in)
        os.close(hers_out)
        browser = Browser(ours_out, ours_in)
        try:
            yield browser
        finally:
            browser.close()
            process.terminate()


def _high(descriptor: int) -> int:
    """The same file under a number that is none of Chromium's."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return high
