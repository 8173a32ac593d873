"""Measures the studio in headless Chromium: first page, size of scripts, a list of 100,000 images, and the map.

    .venv/bin/python tests/bench/studio.py

Requires playwright and Chromium. The pipeline is recorded, not trained; its catalog and embeddings have random content.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

import recorded_colors
import run_recorder

from pipeline.config import loading
from pipeline.studio import app, dataset
from pipeline.studio.catalog import FORMAT, CatalogWriter
from pipeline.studio.embeddings import PredictedImage
from pipeline.studio.pipelines import StudioPipeline

_VERSION, _DIMENSION = 100, 64
_FRAMES_MS = 4000
_SCROLLS = 40

# Moves and zooms the map in every frame, and returns the time of each.
_ANIMATE = """
(duration) => new Promise((resolve) => {
  const canvas = document.getElementById("points");
  const box = canvas.getBoundingClientRect();
  const times = [];
  const start = performance.now();
  let last = start;
  function frame(now) {
    times.push(now - last);
    last = now;
    const phase = Math.floor((now - start) / 500) % 2 ? -1 : 1;
    const at = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
    canvas.dispatchEvent(new WheelEvent("wheel", { ...at, deltaY: 12 * phase, bubbles: true, cancelable: true }));
    canvas.dispatchEvent(new KeyboardEvent("keydown", { key: phase > 0 ? "ArrowLeft" : "ArrowRight", bubbles: true }));
    if (now - start < duration) requestAnimationFrame(frame);
    else resolve(times.slice(2));
  }
  requestAnimationFrame(frame);
})
"""
# Jumps through the list; returns how long it takes until images of the place are shown.
_SCROLL = """
(share) => new Promise((resolve) => {
  const box = document.getElementById("images");
  const start = performance.now();
  box.scrollTop = share * (box.scrollHeight - box.clientHeight);
  box.dispatchEvent(new Event("scroll"));
  const check = () => {
    const shown = box.querySelectorAll("a.thumb").length;
    const waiting = box.querySelectorAll(".thumb.empty").length;
    if (shown && !waiting) resolve(performance.now() - start);
    else setTimeout(check, 1);
  };
  requestAnimationFrame(() => requestAnimationFrame(check));
})
"""


def record(root: Path, num_images: int, *, embedded: bool) -> StudioPipeline:
    """Writes a pipeline whose catalog has so many images."""
    root.mkdir()
    recorded_colors.write(run_recorder.Recorder, root)
    config = loading.load("images", overrides=[f"pipeline.root={root}", "pipeline.name=colors"], needs_data=False)
    pipeline = StudioPipeline("colors", config)
    artifacts = dataset.find_artifacts(pipeline.runs())
    assert artifacts is not None
    rows = [row for row, _ in dataset._examples(artifacts, ("image/class/text",))]
    path = pipeline.folder / f"catalog-{FORMAT}-{artifacts.key}.sqlite"
    with CatalogWriter(path) as writer:
        for number in range(num_images):
            row = rows[number % len(rows)]
            writer.add_image(row._replace(filename=f"{number:06}.png"), [row.label], {"half": str(number % 2)})
        writer.finish([], [])
    if embedded:
        _embed(pipeline.folder / "embeddings" / f"colors-{_VERSION}-{artifacts.images_key}", num_images)
    return pipeline


def _embed(folder: Path, num_images: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    centers = random.normal(size=(3, _DIMENSION))
    vectors = centers[np.arange(num_images) % 3] + 0.6 * random.normal(size=(num_images, _DIMENSION))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (folder / "dimension.json").write_text(str(_DIMENSION))
    (folder / "vectors.f32").write_bytes(vectors.astype("<f4").tobytes())
    lines = [json.dumps(PredictedImage(recorded_colors.CLASSES[n % 3], 0.9, n % 7 > 0)) for n in range(num_images)]
    (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    np.save(folder / "tsne.npy", vectors[:, :2].astype(np.float32))


@contextlib.contextmanager
def studio(root: Path) -> Iterator[str]:
    """Starts the command; yields its address."""
    arguments = [
        sys.executable,
        "-m",
        "pipeline",
        "studio",
        "--root",
        str(root),
        "--port",
        "0",
        "--grpc",
        "127.0.0.1:9",
    ]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield next(word for word in process.stderr.readline().split() if word.startswith("http"))
    finally:
        process.terminate()
        process.wait()


def first_page(page: Page, address: str) -> float:
    """Loads the page of a pipeline; returns the time until its load event, ms."""
    page.goto(f"{address}/p/colors", wait_until="load")
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    return float(timing)


def main() -> None:
    """Prints all measurements."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=100_000)
    arguments.add_argument("--points", type=int, default=10_000)
    options = arguments.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        record(Path(folder, "long"), options.images, embedded=False)
        record(Path(folder, "map"), options.points, embedded=True)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        script_bytes: dict[str, int] = {}
        page.on("response", lambda response: _count(response, script_bytes))
        began = time.monotonic()
        with studio(Path(folder, "long")) as address:
            print(f"process ready after {time.monotonic() - began:.2f} s")
            print(f"first page {first_page(page, address):.0f} ms, again {first_page(page, address):.0f} ms")
            began = time.monotonic()
            page.goto(f"{address}/p/colors/images", wait_until="load")
            page.wait_for_selector("#images a.thumb")
            print(f"list of {options.images:,} images: first images after {time.monotonic() - began:.2f} s")
            random = np.random.default_rng(1)
            times = [page.evaluate(_SCROLL, float(share)) for share in random.random(_SCROLLS)]
            print(f"  {_SCROLLS} random jumps: median {np.median(times):.0f} ms, worst {max(times):.0f} ms")
            print(f"  elements in the list: {page.locator('#images .thumb').count()}")
            _assert_local(requested, address)
        requested.clear()
        with studio(Path(folder, "map")) as address:
            began = time.monotonic()
            page.goto(f"{address}/p/colors/map", wait_until="load")
            page.wait_for_selector("#legend label")
            print(f"map of {options.points:,} points: shown after {time.monotonic() - began:.2f} s")
            frames = np.array(page.evaluate(_ANIMATE, _FRAMES_MS))
            rate = 1000 * len(frames) / frames.sum()
            slow = np.percentile(frames, 99)
            print(f"  {rate:.0f} frames per second, median {np.median(frames):.1f} ms, 99th percentile {slow:.1f} ms")
            for path in ("try", "data", "correct"):
                page.goto(f"{address}/p/colors/{path}", wait_until="load")
            _assert_local(requested, address)
        stored = sum(path.stat().st_size for path in (Path(app.__file__).parent / "static").glob("*.js"))
        print(f"scripts: {sum(script_bytes.values()):,} bytes loaded, {stored:,} bytes in the folder")
        print("requests to other hosts: 0")
        browser.close()


def _count(response: Any, sizes: dict[str, int]) -> None:
    if response.request.resource_type == "script":
        sizes[response.url.rpartition("/")[2]] = len(response.body())


def _assert_local(requested: list[str], address: str) -> None:
    other = [url for url in requested if not url.startswith((f"{address}/", "blob:", "data:"))]
    assert not other, other


if __name__ == "__main__":
    main()
