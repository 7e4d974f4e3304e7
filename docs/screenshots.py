"""Open a page in headless Chromium, take screenshots, and report its problems.

python docs/screenshots.py RANKING/report.html FOLDER

Writes FOLDER/{1280,390}-{light,dark}.png, each of the complete page. Exit status 1 if the page logs
an error, requests anything but itself, or is wider than the window. Needs Chromium
($CHROMIUM, else chromium, chromium-browser or google-chrome on the PATH) and websocket-client.
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)
_MAX_HEIGHT = 16000  # taller screenshots of Chromium are cut off or repeat


def browser_path() -> str | None:
    """Return the path of Chromium, or None if it is missing."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


class Tab:
    """One page of a browser, controlled through the DevTools protocol.

    Attributes:
        events: Events that the browser has reported, in order.
    """

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401
        """Run one command and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def wait_for(self, method: str) -> None:
        """Read events until one with this method arrives."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(json.loads(self._socket.recv()))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


@contextmanager
def browser_tab(executable: str) -> Iterator[Tab]:
    """Start a browser with an empty profile and yield its first tab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [executable, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            tab = Tab(_first_tab(Path(profile), process))
            yield tab
            tab.call("Browser.close")
            tab.close()
            process.wait(timeout=20)
        finally:
            process.kill()
            process.wait()


def _first_tab(profile: Path, process: subprocess.Popen, seconds: float = 60) -> str:
    """Wait for the first tab and return its address."""
    from urllib.request import urlopen

    deadline = time.monotonic() + seconds
    port = profile / "DevToolsActivePort"
    while time.monotonic() < deadline and process.poll() is None:
        if port.is_file() and (lines := port.read_text().splitlines()):
            with urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=10) as response:
                pages = [tab for tab in json.load(response) if tab["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise RuntimeError(f"the browser did not start (status {process.poll()})")


def photograph(page: Path, folder: Path, executable: str) -> list[str]:
    """Write the four screenshots and return the problems of the page, one line each."""
    folder.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    with browser_tab(executable) as tab:
        for domain in ("Page", "Network", "Runtime", "Log"):
            tab.call(f"{domain}.enable")
        for width, scheme in itertools.product(WIDTHS, SCHEMES):
            file = folder / f"{width}-{scheme}.png"
            for problem in _photograph(tab, page, width, scheme, file):
                problems.append(f"{width} px, {scheme}: {problem}")
    return problems


def _photograph(tab: Tab, page: Path, width: int, scheme: str, file: Path) -> list[str]:
    address = page.resolve().as_uri()
    phone = width < 600
    size = {"width": width, "height": 844 if phone else 900, "deviceScaleFactor": 2 if phone else 1}
    tab.call("Emulation.setDeviceMetricsOverride", mobile=phone, **size)
    tab.call(
        "Emulation.setEmulatedMedia",
        features=[{"name": "prefers-color-scheme", "value": scheme}],
    )
    tab.events.clear()
    tab.call("Page.navigate", url=address)
    tab.wait_for("Page.loadEventFired")
    root = "document.scrollingElement"
    shown_width, window_width, height = tab.call(
        "Runtime.evaluate",
        expression=f"[{root}.scrollWidth, innerWidth, {root}.scrollHeight]",
        returnByValue=True,
    )["result"]["value"]
    screenshot = tab.call(
        "Page.captureScreenshot",
        captureBeyondViewport=True,
        clip={"x": 0, "y": 0, "width": width, "height": min(height, _MAX_HEIGHT), "scale": 1},
    )
    file.write_bytes(base64.b64decode(screenshot["data"]))
    problems = list(_problems(tab.events, address))
    if shown_width > width or window_width > width:
        problems.append(f"the page is {max(shown_width, window_width)} px wide")
    return problems


def _problems(events: Sequence[dict[str, Any]], address: str) -> Iterator[str]:
    """Yield the errors, warnings and requests that the browser reported."""
    for event in events:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if url != address and not url.startswith("data:"):
                yield f"requests {url}"
        elif method == "Runtime.exceptionThrown":
            yield f"exception {parameters['exceptionDetails'].get('text')}"
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            yield f"console {[argument.get('value') for argument in parameters['args']]}"
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            yield f"log {parameters['entry']['text']}"


def main(arguments: Sequence[str]) -> int:
    """Take the screenshots of one page; return the exit status."""
    if len(arguments) != 2 or not Path(arguments[0]).is_file():
        print("error: pass the page and a folder for the screenshots.", file=sys.stderr)
        return 2
    executable = browser_path()
    if executable is None:
        print("error: Chromium is missing. Install it or set CHROMIUM.", file=sys.stderr)
        return 2
    problems = photograph(Path(arguments[0]), Path(arguments[1]), executable)
    print(
        "\n".join(problems) or f"wrote {arguments[1]}", file=sys.stderr if problems else sys.stdout
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
