"""The studio in headless Chromium, for the tests of several files."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pipeline.studio import app as studio_app
from pipeline.studio.options import StudioOptions

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The first requests to a model server take seconds.
TIMEOUT_MS = 120_000
_SERIOUS = ("serious", "critical")
_FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@contextlib.contextmanager
def serve(options: StudioOptions) -> Iterator[str]:
    """Serves the studio on a free port; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(studio_app.create_app(options), log_level="error", ws="none"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(10)
        listener.close()


def options(server: Any, **more: Any) -> StudioOptions:
    """Options of a studio with a running model server."""
    addresses = {"grpc": f"127.0.0.1:{server.grpc_port}", "rest": f"http://127.0.0.1:{server.rest_port}"}
    return StudioOptions(**addresses, **more)


@contextlib.contextmanager
def launch() -> Iterator[Any]:
    """Starts Chromium."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def pages(browser: Any) -> Iterator[Callable[[str], Any]]:
    """Opens pages that fail the test if they request another host, or if a script fails."""
    contexts, requested, problems = list[Any](), list[tuple[str, str]](), list[str]()

    def open_one(address: str) -> Any:
        context = browser.new_context(base_url=address, permissions=["camera", "clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requested.append((address, request.url)))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console", lambda message: problems.append(message.text) if "Content Security" in message.text else None
        )
        page.set_default_timeout(TIMEOUT_MS)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert [url for address, url in requested if not url.startswith((f"{address}/", "blob:", "data:"))] == []
    assert problems == []


def wait_until(page: Any, expression: str) -> None:
    """Waits until an expression is true; the policy of the pages forbids playwright's own way."""
    for _ in range(TIMEOUT_MS // 50):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def assert_accessible(page: Any) -> None:
    """Checks the page as it is shown now with axe-core; skips the test without it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    violations = axe.Axe().run(page).response["violations"]
    serious = {
        entry["id"]: [node["html"] for node in entry["nodes"]] for entry in violations if entry["impact"] in _SERIOUS
    }
    assert not serious, f"{page.url}: {serious}"


def tab_to(page: Any, locator: Any, most: int = 60) -> None:
    """Moves the focus with the Tab key only."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if locator.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError(f"{locator} cannot be reached with the Tab key")


def predict(page: Any, choose: Callable[[], Any]) -> dict[str, Any]:
    """Chooses an image on the page *Try*; returns the response, when the page shows it."""
    views = list[dict[str, Any]]()

    def keep(route: Any) -> None:
        response = route.fetch(timeout=TIMEOUT_MS)
        views.append(response.json())
        route.fulfill(response=response)

    page.route("**/predict?*", keep)
    choose()
    wait_until(page, "document.getElementById('results')?.hidden === false")
    return views[0]


def overlay_pixels(page: Any) -> int:
    """Number of pixels that the first overlay paints."""
    number: int = page.evaluate(
        """() => {
          const canvas = document.querySelector("#columns .overlay");
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          return data.filter((value, index) => index % 4 === 3 && value > 0).length;
        }"""
    )
    return number


def run_snippets(page: Any, folder: Path) -> dict[str, str]:
    """Runs the code that the page shows, in a folder with `image.png`: title of the snippet → what it prints."""
    programs = {"Python": [sys.executable, "-c"], "curl": ["bash", "-c"], "Command line": ["bash", "-c"]}
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    printed = {}
    for snippet in page.locator("#snippets .snippet").all():
        title, code = snippet.locator("h3").inner_text(), snippet.locator("code").inner_text()
        done = subprocess.run(
            [*programs[title], code], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (title, code, done.stderr)
        printed[title] = done.stdout
    return printed


def choose_images(page: Any, num: int) -> None:
    """Selects images of the request log on the page *Correct*, and waits for the queue that begins with them."""
    page.locator("#select-num").fill(str(num))
    with page.expect_navigation(wait_until="load"):
        page.locator("#select-button").click()
    wait_until(page, "document.getElementById('photo-link')?.textContent.startsWith('images/request-')")
