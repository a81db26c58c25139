"""A real browser for tests: Chromium without a window, driven by its DevTools protocol through two pipes."""

import base64
import json
import os
import shutil
import subprocess

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
REQUIRE_BROWSER = "PRUNEBENCH_REQUIRE_BROWSER"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)  # fmt: skip


def find():
    """The browser's program; the test is skipped, or fails where a browser is required, if there is none."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        reason = f"no browser is installed (looked for {', '.join(BROWSERS)})"
        if os.environ.get(REQUIRE_BROWSER) == "1":
            pytest.fail(f"{REQUIRE_BROWSER} is 1 but {reason}", pytrace=False)
        pytest.skip(reason)
    return found


class Browser:
    """One process with one page. `errors` holds what was logged as an error, thrown, or blocked."""

    def __init__(self, profile):
        (read_command, self._to), (self._from, write_answer) = os.pipe(), os.pipe()

        def place():
            # the protocol's ends are descriptors 3 and 4; copies first, since the pipes may have these numbers
            ends = os.dup(read_command), os.dup(write_answer)
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        program = [find(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            program, preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read_command)
        os.close(write_answer)
        self._held, self._number, self._session, self.errors = b"", 0, None, []
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, address, width, *, dark=False, printed=False):
        """Load a page in a window of that width, on a dark desktop or as printed, and wait until it has drawn."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", media="print" if printed else "", features=features)
        self.resize(width)
        self.errors.clear()
        self._call("Page.navigate", url=address)
        self._wait("Page.loadEventFired")

    def resize(self, width, height=1000):
        """Another size of the window."""
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **shape)

    def run(self, script):
        """The value of an expression, awaited where it is a promise."""
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self._call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self, file):
        """The whole page as a PNG file."""
        height = self.run("document.documentElement.scrollHeight")
        width = self.run("window.innerWidth")
        area = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip=area)
        file.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self):
        """The page as it is printed on A4."""
        shape = {"printBackground": True, "paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True}
        return base64.b64decode(self._call("Page.printToPDF", **shape)["data"])

    def close(self):
        """End the process."""
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._to)
        os.close(self._from)

    def _call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _wait(self, event):
        while (answer := self._next()).get("method") != event:
            self._note(answer)

    def _note(self, event):
        said = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(said["exceptionDetails"].get("exception", {}).get("description") or str(said))
        elif event.get("method") == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(said["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and said["type"] in ("error", "assert"):
            self.errors.append(str(said["args"]))

    def _next(self):
        while b"\0" not in self._held:
            part = os.read(self._from, 1 << 16)
            assert part, "the browser has gone"
            self._held += part
        message, self._held = self._held.split(b"\0", 1)
        return json.loads(message)
