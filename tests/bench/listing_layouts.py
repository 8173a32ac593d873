"""Measures the listing in every layout: processor time, and bytes of each additional image.

    python tests/bench/listing_layouts.py [--num 10000 --num 50000] [--layout manifest ...]

Images of 8 pixels, hard links to a few files, are written in each layout, in each of the numbers. A process of its own
lists each dataset; the difference of two peaks is divided by the difference of the numbers.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.options import DataOptions

_SIDE = 8
_LINKS_PER_FILE = 50_000  # ext4 allows 65,000
_CLASSES = ("cat", "dog")
_PER_FOLDER, _REAL_FOLDERS = 1000, 100


def images(folder: Path, num: int, suffix: str = "jpg") -> Iterator[tuple[str, str]]:
    """Writes images with names of 16 letters; yields the name of each, without suffix, and its class."""
    folder.mkdir(parents=True)
    for number in range(num):
        source = folder.parent / f"{folder.name}-source-{number // _LINKS_PER_FILE}"
        if number % _LINKS_PER_FILE == 0:
            Image.new("L", (_SIDE, _SIDE)).save(source, "PNG" if suffix == "png" else "JPEG")
        os.link(source, folder / f"{number:012d}.{suffix}")
        yield f"{number:012d}", _CLASSES[number % 2]
    for source in folder.parent.glob(f"{folder.name}-source-*"):
        source.unlink()


def nested(folder: Path, num: int) -> Iterator[tuple[str, str]]:
    """Writes images in folders of a thousand; yields the path of each, without suffix, and its class."""
    for first in range(0, num, _PER_FOLDER):
        number = f"{first // _PER_FOLDER:05d}"
        for name, label in images(folder / number, min(_PER_FOLDER, num - first)):
            yield f"{number}/{name}", label


def write(path: Path, text: str) -> None:
    """Writes a file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def class_folders(root: Path, num: int) -> list[str]:
    """Writes folders of a thousand images, all but a hundred as links; returns the paths of the images."""
    paths: list[str] = []
    for first in range(0, num, _PER_FOLDER):
        number, size = first // _PER_FOLDER, min(_PER_FOLDER, num - first)
        folder = f"class-{number:05d}"
        if number >= _REAL_FOLDERS and size == _PER_FOLDER:
            (root / folder).symlink_to(f"class-{number % _REAL_FOLDERS:05d}")
            paths += [f"{folder}/{index:012d}.jpg" for index in range(size)]
        else:
            paths += [f"{folder}/{name}.jpg" for name, _ in images(root / folder, size)]
    return paths


def metadata(root: Path, num: int) -> None:
    """Writes class folders, and a table with one column."""
    rows = [f"{path},{number % 5}" for number, path in enumerate(class_folders(root, num))]
    (root / "metadata.csv").write_text("\n".join(["filename,camera", *rows]))


def manifest(root: Path, num: int) -> None:
    """Writes folders of a thousand images, and a table of paths and labels."""
    rows = [f"{path},{_CLASSES[number % 2]}" for number, path in enumerate(class_folders(root, num))]
    (root / "manifest.csv").write_text("\n".join(["path,label", *rows]))


def mask_pairs(root: Path, num: int) -> None:
    """Writes a folder of images and one of masks."""
    for _ in zip(images(root / "images", num), images(root / "masks", num, "png"), strict=True):
        pass
    (root / "classes.txt").write_text("\n".join(_CLASSES))


def yolo(root: Path, num: int) -> None:
    """Writes one box for every image, in a text file."""
    for name, label in nested(root / "images", num):
        write(root / "labels" / f"{name}.txt", f"{_CLASSES.index(label)} 0.5 0.5 0.5 0.5\n")
    (root / "classes.txt").write_text("\n".join(_CLASSES))
    (root / "data.yaml").write_text(f"names: [{', '.join(_CLASSES)}]\n")  # by which the layout is detected


def voc(root: Path, num: int) -> None:
    """Writes one box for every image, in an XML file."""
    box = "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>6</xmax><ymax>6</ymax></bndbox>"
    size = f"<size><width>{_SIDE}</width><height>{_SIDE}</height></size>"
    for name, label in nested(root / "JPEGImages", num):
        content = f"<filename>{name}.jpg</filename>{size}<object><name>{label}</name>{box}</object>"
        write(root / "Annotations" / f"{name}.xml", f"<annotation>{content}</annotation>\n")


def coco(root: Path, num: int) -> None:
    """Writes one box for every image, in one file."""
    content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    for number, (name, label) in enumerate(nested(root / "images", num)):
        content["images"].append({"id": number, "file_name": f"{name}.jpg", "width": _SIDE, "height": _SIDE})
        box = {"id": number, "image_id": number, "category_id": _CLASSES.index(label), "bbox": [2, 2, 4, 4]}
        content["annotations"].append(box)
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(_CLASSES)]
    (root / "annotations.json").write_text(json.dumps(content))


def label_studio(root: Path, num: int) -> None:
    """Writes a task with one box for every image, in one file."""
    size = {"original_width": _SIDE, "original_height": _SIDE, "image_rotation": 0}
    tasks = [
        {
            "id": number,
            "data": {"image": f"/data/local-files/?d=images/{name}.jpg"},
            "annotations": [{"id": number, "result": [{"type": "rectanglelabels", **size, "value": _percent(label)}]}],
        }
        for number, (name, label) in enumerate(nested(root / "images", num))
    ]
    (root / "export.json").write_text(json.dumps(tasks))


def _percent(label: str) -> dict[str, object]:
    return {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": [label]}


def cvat(root: Path, num: int) -> None:
    """Writes one box for every image, in one file."""
    elements = [
        f'<image id="{number}" name="{name}.jpg" width="{_SIDE}" height="{_SIDE}"><box label="{label}" xtl="2" ytl="2" '
        'xbr="6" ybr="6" occluded="0"></box></image>'
        for number, (name, label) in enumerate(nested(root / "images", num))
    ]
    (root / "annotations.xml").write_text(
        "\n".join(["<annotations><version>1.1</version>", *elements, "</annotations>"])
    )


def box_table(root: Path, num: int) -> None:
    """Writes folders of a thousand images, and a table with one row for every image, each with a box."""
    rows = [f"{path},2,2,6,6,{_CLASSES[number % 2]}" for number, path in enumerate(class_folders(root, num))]
    (root / "manifest.csv").write_text("\n".join(["path,xmin,ymin,xmax,ymax,label", *rows]))


def names_only(root: Path, num: int) -> None:
    """Writes a folder of images, and a table of their names without suffix, and labels."""
    rows = [f"{name},{label}" for name, label in images(root / "images", num)]
    (root / "manifest.csv").write_text("\n".join(["path,label", *rows]))


WRITERS: dict[str, Callable[[Path, int], object]] = {
    writer.__name__: writer
    for writer in (
        *(class_folders, metadata, manifest, names_only, mask_pairs),
        *(yolo, voc, coco, label_studio, cvat, box_table),
    )
}


def main() -> None:
    """Prints the table: a process for every layout and number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, action="append")
    parser.add_argument("--layout", choices=WRITERS, action="append")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        start = time.process_time()
        dataset = inspect_dataset(arguments.measure, DataOptions())
        seconds = time.process_time() - start
        # `ru_maxrss` would be at least that of the parent, which has all paths.
        peak_kib = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
        print(json.dumps([dataset.layout, len(dataset.entries), peak_kib, seconds]))
        return
    print("| dataset | layout | images | processor, s | µs an image | peak, MiB | B a further image |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.layout or WRITERS:
        before: tuple[int, int] | None = None
        for num in arguments.num or (10_000, 50_000):
            location = tempfile.mkdtemp()
            try:
                WRITERS[name](Path(location, "dataset"), num)
                command = [sys.executable, __file__, "--measure", f"{location}/dataset"]
                layout, size, peak_kib, seconds = json.loads(subprocess.check_output(command))
            finally:
                shutil.rmtree(location)
            assert size == num
            growth = f"{(peak_kib - before[1]) * 1024 / (num - before[0]):.0f}" if before else ""
            cells = (name, layout, f"{num:,}", f"{seconds:.1f}", f"{seconds / num * 1e6:.0f}", f"{peak_kib / 1024:.0f}")
            print(f"| {' | '.join(cells)} | {growth} |", flush=True)
            before = num, peak_kib


if __name__ == "__main__":
    main()
