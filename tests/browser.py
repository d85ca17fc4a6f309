"""A real headless browser, driven over the WebDriver protocol with the standard library alone."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name of an element's id
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # Nobody but this machine is asked anything.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    # As with a mouse: without one, pages show what they otherwise show under the pointer.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,"
    "primaryPointerType=4,availablePointerTypes=4",
)
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
ENTER, BACKSPACE = "\ue007", "\ue003"


class Browser:
    """One session."""

    def __init__(self, base: str, session: str) -> None:
        self._base = f"{base}/session/{session}"

    def open(self, url: str) -> None:
        _ask("POST", f"{self._base}/url", {"url": url})

    def run(self, script: str) -> Any:
        """The value that a script returns."""
        return _ask("POST", f"{self._base}/execute/sync", {"script": script, "args": []})

    def text(self) -> str:
        return str(self.run("return document.body.innerText"))

    def click(self, selector: str) -> None:
        node = _ask("POST", f"{self._base}/element", {"using": "css selector", "value": selector})
        _ask("POST", f"{self._base}/element/{node[_ELEMENT]}/click", {})

    def press(self, *keys: str) -> None:
        """Press keys where the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        actions = [{"type": "key", "id": "keyboard", "actions": strokes}]
        _ask("POST", f"{self._base}/actions", {"actions": actions})

    def wait_for(self, text: str, seconds: float = 15) -> None:
        """Wait until the page shows a text."""
        deadline = time.monotonic() + seconds
        while text not in self.text():
            if time.monotonic() > deadline:
                pytest.fail(f"{text!r} did not appear in: {self.text()}")
            time.sleep(0.05)

    def wait_until(self, script: str, seconds: float = 30) -> Any:
        """Wait until a script returns something true, and return that."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > deadline:
                pytest.fail(f"never true: {script}\non the page: {self.text()}")
            time.sleep(0.1)
        return value

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(_ask("GET", f"{self._base}/screenshot")))

    def problems(self) -> list[str]:
        """What the browser's console complained of."""
        entries = _ask("POST", f"{self._base}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def close(self) -> None:
        _ask("DELETE", self._base)


@contextlib.contextmanager
def browsing(folder: Path, *, size: str = "1200,900") -> Iterator[Browser]:
    """A browser with a fresh profile in ``folder``; skips the test where there is none."""
    driver = shutil.which("chromedriver")
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if driver is None or program is None:
        pytest.skip("no chromium with its chromedriver is installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_until_ready(base)
            options = {
                "binary": program,
                "args": [
                    *(*_FLAGS, f"--window-size={size}"),
                    f"--user-data-dir={folder / 'profile'}",
                ],
            }
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            opened = _ask("POST", f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})
            browser = Browser(base, opened["sessionId"])
            try:
                yield browser
            finally:
                browser.close()
        finally:
            child.terminate()


def _wait_until_ready(base: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if _ask("GET", f"{base}/status")["ready"]:
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _ask(method: str, url: str, content: dict[str, Any] | None = None) -> Any:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, method=method)
    request.add_header("Content-Type", "application/json")
    with _OPENER.open(request, timeout=60) as answer:
        return json.loads(answer.read())["value"]
