"""Listing: once for a dataset that is in use; several folders at a time; in files if there are many images."""

import dataclasses
import http.server
import json
import os
import threading
import time
import urllib.parse

import numpy as np
import pytest

from components.image_example_gen import (
    dataset,
    files,
    folder_listing,
    listing_tasks,
    mixed_shards,
    object_store,
    shards,
    span_listing,
    spans,
    stored_entries,
)
from components.image_example_gen.dataset import inspect_dataset, listed_dataset, remember
from components.image_example_gen.entries import Entry
from components.image_example_gen.errors import DatasetError, UnnamedClassesError
from components.image_example_gen.labels import BOX_LABEL
from components.image_example_gen.layouts import class_folders, split_folders
from components.image_example_gen.listing_tasks import ListingPlace
from components.image_example_gen.opened_folder import OpenedFolder, open_folder
from components.image_example_gen.options import DataOptions
from components.image_example_gen.shards import WorkFolder
from components.image_example_gen.stored_entries import EntryTotals, StoredEntries


@pytest.fixture
def small_blocks(monkeypatch):
    """Keeps the entries of more than a few images in files."""
    for module in (listing_tasks, mixed_shards):
        monkeypatch.setattr(module, "IMAGES_PER_PARTITION", 7)
        monkeypatch.setattr(module, "ENTRIES_PER_BLOCK", 3)
    monkeypatch.setattr(stored_entries, "SKETCH_SIZE", 9)
    monkeypatch.setattr(folder_listing, "_FOLDERS_AT_A_TIME", 1)
    for name, number in (("_MOST_TASKS", 4), ("_MOST_IN_PROCESS", 5)):
        monkeypatch.setattr(listing_tasks, name, number)


# --- Once -------------------------------------------------------------------------------------------------------


def test_a_dataset_that_is_in_use_is_not_listed_again(class_folders, monkeypatch):
    location, options = str(class_folders({"a": 3, "b": 3})), DataOptions()
    listed = remember(location, options, inspect_dataset(location, options))
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "inspect_dataset", lambda *_: "listed again")
        assert listed_dataset(location, DataOptions(), listed.fingerprint) is listed
        assert listed_dataset(location, DataOptions(), "of another dataset") == "listed again"
        assert listed_dataset(location, DataOptions(recursive=True), listed.fingerprint) == "listed again"
    fingerprint = listed.fingerprint
    del listed
    again = listed_dataset(location, DataOptions(), fingerprint)
    assert again.fingerprint == fingerprint and len(again.entries) == 6


# --- Several folders at a time ----------------------------------------------------------------------------------


def test_folders_of_a_store_are_listed_in_their_order():
    import tensorflow as tf

    root = "ram://many-folders"
    for folder in range(20):
        tf.io.gfile.makedirs(f"{root}/{folder:02}/inner")
        for path in (f"{folder:02}/x.png", f"{folder:02}/inner/y.png"):
            with tf.io.gfile.GFile(f"{root}/{path}", "w") as file:
                file.write("x" * (folder + 1))
    names = [f"{folder:02}" for folder in range(20)]
    assert list(files.listings(root, names)) == [files.listing(root, name) for name in names]
    deep = list(files.listings(root, names, recursive=True))
    assert [[(file.path, file.size) for file in inside] for inside in deep] == [
        [(f"{name}/inner/y.png", number), (f"{name}/x.png", number)] for number, name in enumerate(names, start=1)
    ]


def test_threads_work_ahead_of_the_reader_but_not_far():
    started = []

    def work(number):
        started.append(number)
        time.sleep(0.001 * (number % 3))
        return number

    results = files.ahead(work, range(100), 4)
    for number in range(20):
        assert next(results) == number
        assert len(started) <= number + 5
    assert list(results) == list(range(20, 100))


def test_the_error_of_the_first_folder_that_fails_is_raised():
    def work(number):
        if number >= 3:
            time.sleep(0.02 if number == 3 else 0)
            raise PermissionError(13, "Permission denied", f"folder-{number}")
        return number

    results = files.ahead(work, range(10), 4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(PermissionError, match="folder-3"):
        next(results)


def test_a_folder_that_cannot_be_listed_stops_the_run(class_folders, tmp_path, monkeypatch, many_tasks):
    root, list_folder = class_folders({"a": 2, "b": 2, "c": 2}), os.listdir

    def refuse(location):
        if location == f"{root}/b":
            raise PermissionError(13, "Permission denied", location)
        return list_folder(location)

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(listing_tasks, "_MOST_IN_PROCESS", 1)
    monkeypatch.setattr(folder_listing, "_FOLDERS_AT_A_TIME", 1)
    place = ListingPlace(many_tasks(), WorkFolder(str(tmp_path)))
    for engine in (None, lambda: place):
        with pytest.raises(PermissionError, match=f"{root}/b"):
            inspect_dataset(str(root), DataOptions(), engine)


def test_a_slow_volume_is_described_by_threads(tmp_path, monkeypatch):
    for number in range(120):
        (tmp_path / f"{number}.png").write_text("x" * number)
    expected = files.listing(str(tmp_path))
    calls, describe = [], files._describe_names

    def noted(inside, real_root, names):
        calls.append((len(names), threading.current_thread() is threading.main_thread()))
        time.sleep(0.01)
        return describe(inside, real_root, names)

    monkeypatch.setattr(files, "_describe_names", noted)
    assert files.listing(str(tmp_path)) == expected
    assert calls[0] == (50, True) and sorted(calls[1:]) == [(20, False), (50, False)]
    assert len(expected) == 120 and expected == files.describe(str(tmp_path), os.listdir(tmp_path))


def test_the_files_of_a_table_on_a_slow_volume_are_described_by_threads(tmp_path, monkeypatch):
    names = [f"{number}.png" for number in range(120)]
    for name in names:
        (tmp_path / name).write_text(name)
    expected = files.describe(str(tmp_path), [*names, "lost.png", "../out.png"])
    calls, describe = [], files._describe_local

    def noted(root, real_root, path):
        calls.append(threading.current_thread() is threading.main_thread())
        time.sleep(0.001)
        return describe(root, real_root, path)

    monkeypatch.setattr(files, "_describe_local", noted)
    assert files.describe(str(tmp_path), [*names, "lost.png", "../out.png"]) == expected
    assert calls[:49] == [True] * 49 and not any(calls[50:]) and len(calls) == 121


@pytest.mark.parametrize(("limit", "num_threads"), [(0, 33), (10, 1)])
def test_the_contents_of_files_on_a_slow_volume_are_read_by_threads(tmp_path, monkeypatch, limit, num_threads):
    monkeypatch.setattr(files, "_SECONDS_OF_LOCAL_READ", limit)
    for number in range(150):
        (tmp_path / f"{number}.png").write_bytes(b"x" * number)
    paths = [f"{number}.png" for number in range(160)]
    threads, read, all_started = set(), files.read, threading.Barrier(32, timeout=20)

    def noted(root, path, most_bytes):
        threads.add(threading.current_thread())
        if num_threads > 1 and path in paths[50:82]:
            all_started.wait()  # the first window: all of its files at the same time
        return read(root, path, most_bytes)

    monkeypatch.setattr(files, "read", noted)
    contents = list(files.read_all(str(tmp_path), iter(paths)))
    assert [content for content in contents if isinstance(content, bytes)] == [b"x" * number for number in range(150)]
    assert [str(content) for content in contents[150:]] == ["cannot be read: No such file or directory"] * 10
    assert len(threads) == num_threads


def test_large_files_are_not_a_slow_volume(tmp_path, monkeypatch):
    (tmp_path / "large.png").write_bytes(b"x" * 10_000)
    threads, read = set(), files.read

    def noted(root, path, most_bytes):
        threads.add(threading.current_thread())
        return read(root, path, most_bytes)

    monkeypatch.setattr(files, "read", noted)
    monkeypatch.setattr(files, "_SECONDS_OF_LOCAL_READ", 0)
    for rate, are_threads in ((1e4, False), (1e12, True)):
        monkeypatch.setattr(files, "_BYTES_PER_SECOND", rate)
        threads.clear()
        assert {len(content) for content in files.read_all(str(tmp_path), ["large.png"] * 60)} == {10_000}
        assert (len(threads) > 1) == are_threads
    # Files that are read ahead are in memory.
    monkeypatch.setattr(files, "_MOST_BYTES_AHEAD", 25_000)
    windows, window_of = [], files._windows

    def noted_windows(paths, most):
        for window in window_of(paths, most):
            windows.append(len(window))
            yield window

    monkeypatch.setattr(files, "_windows", noted_windows)
    assert len(list(files.read_all(str(tmp_path), ["large.png"] * 55))) == 55
    assert windows == [2, 2, 1]


# --- Object stores ----------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    """A server with the list request of Google Cloud Storage, two objects or folders at a time; name → size."""
    objects, requests = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            if not url.path.endswith("/b/photos/o"):
                self.answer(403, {"error": {"code": 403, "message": "no access"}})
                return
            requests.append(query)
            prefix, start = query.get("prefix", ""), int(query.get("pageToken", 0))
            inside = {}
            for name in sorted(objects):
                if name.startswith(prefix):
                    head, slash, _ = name[len(prefix) :].partition("/")
                    inside[prefix + head + slash] = bool(slash) and name != prefix
            page = list(inside.items())[start : start + 2]
            body = {
                "prefixes": [name for name, is_prefix in page if is_prefix],
                "items": [
                    {"name": name, "size": str(objects[name]), "updated": "2026-11-30T06:17:09.125Z"}
                    for name, is_prefix in page
                    if not is_prefix
                ],
            }
            if start + 2 < len(inside):
                body["nextPageToken"] = str(start + 2)
            self.answer(200, body)

        def answer(self, status, body):
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client(project="tests", credentials=AnonymousCredentials())
    monkeypatch.setattr(object_store, "_client", lambda: client)
    yield objects, requests
    client.close()
    server.shutdown()
    thread.join()
    server.server_close()


def test_objects_are_listed_with_their_sizes(bucket):
    objects, requests = bucket
    objects |= {f"pets/cat/{number}.png": number for number in range(5)}
    objects |= {"pets/cat/": 0, "pets/cat/.hidden": 1, "pets/cat/more/7.png": 7, "pets/dog/0.png": 3, "pets/list": 9}
    changed = 1_796_019_429_125_000_000
    assert files.listing("gs://photos", "pets") == [
        files.File("pets/cat", is_folder=True),
        files.File("pets/dog", is_folder=True),
        files.File("pets/list", 9, changed),
    ]
    assert len(requests) == 2
    requests.clear()
    assert files.listing("gs://photos/pets", "cat") == [
        *(files.File(f"cat/{number}.png", number, changed) for number in range(5)),
        files.File("cat/more", is_folder=True),
    ]
    assert len(requests) == 4  # two objects a page, none for a single object
    folders = class_folders.class_folders_among("gs://photos/pets", files.listing("gs://photos/pets"))
    listing = class_folders.list_classes("gs://photos/pets", folders)
    assert [(entry.path, entry.size) for entry in listing.entries] == [
        *((f"cat/{number}.png", number) for number in range(5)),
        ("dog/0.png", 3),
    ]
    assert [file.path for file in listing.refused] == ["cat/more/7.png"]


def test_a_store_that_refuses_is_an_error(bucket):
    with pytest.raises(files.UnreadableFileError, match=r"gs://other/pets: .*no access"):
        files.listing("gs://other", "pets")


# --- Folder by folder -------------------------------------------------------------------------------------------


def write_tree(root, seed):
    """Writes class folders with all that a listing distinguishes."""
    rng = np.random.default_rng(seed)
    splits = [["", ""], ["train", "test"], ["train", "validation", "test"]][seed % 3]
    names = ["cat", "cat b", "dog-1", "dög"][: 2 + seed % 3]
    folders = [f"{split}/{name}".strip("/") for split in dict.fromkeys(splits) for name in names]
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for number in range(int(rng.choice([12, 30, 60]))):
        folder = folders[number % len(folders)]
        stem = str(rng.choice(["", "a", "image_", "x y"])) + str(number)
        (root / folder / f"{stem}.png").write_bytes(b"x" * int(rng.integers(9)))
        kind = rng.integers(14)
        if kind == 0:
            (root / folder / f"{stem}_mask.png").write_bytes(b"m")
        elif kind == 1:
            (root / folder / "inner" / "deep").mkdir(parents=True, exist_ok=True)
            (root / folder / "inner" / "deep" / f"{number}.png").write_bytes(b"n")
        elif kind == 2:
            for role in ("images", "masks"):
                (root / folder / role).mkdir(exist_ok=True)
                (root / folder / role / f"{number}.png").write_bytes(b"p")
        elif kind == 3:
            (root / folder / f"link{number}.png").symlink_to(root / folder / f"{stem}.png")
        elif kind == 4:
            (root / folder / f"lost{number}.png").symlink_to("nowhere")
        elif kind == 5:
            (root / folder / f"out{number}.png").symlink_to("/etc/hostname")
        elif kind == 6:
            (root / folder / ".hidden.png").write_bytes(b"h")
            (root / folder / "Thumbs.db").write_bytes(b"h")
        elif kind == 7:
            with open(os.fsencode(root / folder) + b"/caf\xe9%d.png" % number, "wb") as file:
                file.write(b"b")
        elif kind == 8:
            os.mkfifo(root / folder / f"pipe{number}")
        elif kind == 9:
            (root / folder / "again").unlink(missing_ok=True)
            (root / folder / "again").symlink_to(root / folder)  # a loop
        elif kind == 10:
            (root / f"stray{number}.png").write_bytes(b"s")
    return folders


@pytest.mark.parametrize("seed", range(60))
def test_any_folders_are_listed_as_one_after_another(
    tmp_path, monkeypatch, small_blocks, reference_listing, seed, many_tasks
):
    root = tmp_path / "images"
    write_tree(root, seed)
    location = str(root)
    options = DataOptions(
        layout="split_folders" if seed % 3 else "class_folders",
        recursive=seed % 4 == 1,
        rename_classes={"cat b": "cow"} if seed % 5 == 2 and seed % 3 else {},
        group_pattern=r"(\d)\.png" if seed % 2 else None,
        split_pattern=r"(?P<test>7\.png)" if seed % 7 == 3 else None,
        classes=["dog-1", "cat"] if seed % 6 == 3 else None,
    )
    if seed % 10 == 4:
        for number in (1, 2):
            write_tree(tmp_path / "spans" / f"day-{number}", seed + number * 3)
        location, options = f"{tmp_path}/spans/day-{{SPAN}}", options.model_copy(update={"spans": "all"})
    with monkeypatch.context() as patch:
        patch.setattr(OpenedFolder, "has_separate_folders", lambda opened: False)
        for layout in (class_folders, split_folders):
            patch.setattr(layout, "list_classes", reference_listing.list_classes)
        expected = outcome(location, options)
    for engine in (None, lambda: ListingPlace(many_tasks(), WorkFolder(str(tmp_path)))):
        listed = outcome(location, options, engine)
        if isinstance(expected, str):
            assert listed == expected
            continue
        assert isinstance(listed.entries, StoredEntries) and listed.entries.is_shared == (engine is not None)
        assert tuple(listed.entries) == tuple(expected.entries) and listed.num_bytes == expected.num_bytes
        same = {"entries": (), "fingerprint": ""}
        assert dataclasses.replace(listed, **same) == dataclasses.replace(expected, **same)
        smallest = stored_entries.sketch(expected.entries)
        assert [(digest, entry.path) for digest, entry in listed.sketch] == [
            (digest, entry.path) for digest, entry in smallest
        ]
        assert len(smallest) == min(9, len(expected.entries))


def outcome(location, options, engine=None):
    """Lists a dataset; the message if it is refused."""
    try:
        return inspect_dataset(location, options, engine)
    except DatasetError as error:
        return str(error)


def test_the_fingerprint_does_not_depend_on_where_folders_are_listed(
    class_folders, tmp_path, monkeypatch, request, many_tasks
):
    root = class_folders({f"class-{number}": 6 for number in range(9)})
    first = inspect_dataset(str(root), DataOptions())
    request.getfixturevalue("small_blocks")
    place = ListingPlace(many_tasks(), WorkFolder(str(tmp_path)))
    stored = [inspect_dataset(str(root), DataOptions(), engine) for engine in (None, lambda: place)]
    assert {each.fingerprint for each in stored} == {first.fingerprint}
    assert isinstance(first.entries, tuple) and all(isinstance(each.entries, StoredEntries) for each in stored)
    for change in (
        lambda: (root / "class-3" / "0.png").rename(root / "class-3" / "x.png"),
        lambda: (root / "class-3" / "x.png").write_bytes(b"other"),
        lambda: (root / "class-3").rename(root / "other"),
        lambda: (root / "other" / "lost.png").symlink_to("nowhere"),
    ):
        before = inspect_dataset(str(root), DataOptions()).fingerprint
        change()
        assert inspect_dataset(str(root), DataOptions()).fingerprint != before


def test_the_files_of_a_dataset_that_nobody_uses_are_deleted(class_folders, small_blocks):
    listed = inspect_dataset(str(class_folders({"a": 6, "b": 6})), DataOptions())
    folder = listed.entries.folder.location
    assert os.listdir(folder)
    del listed
    assert not os.path.exists(folder)


def test_large_classes_that_look_alike_are_counted(class_folders, small_blocks):
    root = class_folders({"cat": 9, "Cat": 5, "dog": 3})
    with pytest.raises(DatasetError, match=r"`Cat` \(5 images, such as Cat/0.png, Cat/1.png\) and `cat` \(9 images"):
        inspect_dataset(str(root), DataOptions())


# --- Spans ------------------------------------------------------------------------------------------------------


def write_manifest(root, rng, columns, cell=lambda name: name):
    """Writes a span of images with a manifest, whose other columns are given."""
    (root / "images").mkdir(parents=True)
    lines = [",".join(["path", "label", *columns])]
    for number in range(int(rng.integers(4, 12))):
        (root / "images" / f"{number}.png").write_bytes(b"x" * int(rng.integers(1, 9)))
        path = [f"images/{number}.png", f"images\\{number}.png", f"{number}"][int(rng.choice(3, p=[0.8, 0.1, 0.1]))]
        label = cell(["cat", "dog", "cow"][number % 3])
        lines.append(",".join([path, label, *(str(rng.choice(["a", "b"])) for _ in columns)]))
    (root / "manifest.csv").write_text("\n".join([*lines, "images/lost.png,cat" + "," * len(columns), ""]))


def write_metadata(root, rng):
    """Writes a span of class folders with a table of metadata."""
    lines = ["filename,site"]
    for number in range(9):
        path = root / ["cat", "dog", "cow"][number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * int(rng.integers(1, 9)))
        if number != 4:
            lines.append(f"{path.relative_to(root)},{rng.choice(['a', 'b'])}")
    (root / "metadata.csv").write_text("\n".join(lines))


def write_boxes(root, rng):
    """Writes a span in COCO's format."""
    (root / "images").mkdir(parents=True)
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    for number in range(int(rng.integers(3, 9))):
        (root / "images" / f"{number}.png").write_bytes(b"x")
        document["images"].append({"id": number, "file_name": f"{number}.png", "width": 9, "height": 9})
        box = {"id": number, "image_id": number, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
        document["annotations"].append(box | {"category_id": 1 + number % 2})
    (root / "instances.json").write_text(json.dumps(document))


KINDS = {
    "manifest": lambda root, rng: write_manifest(root, rng, ["site"]),
    "sets": lambda root, rng: write_manifest(root, rng, ["site"], lambda name: f"{name}|dog|rare"),
    "metadata": write_metadata,
    "boxes": write_boxes,
}


@pytest.mark.parametrize(
    ("kinds", "options"),
    [
        (["manifest"], {}),
        (["manifest"], {"rename_classes": {"cow": "ox"}, "group_pattern": r"(\d)\.png"}),
        (["sets"], {"labels_per_image": "any", "classes": ["cat", "cow", "dog"]}),
        (["metadata"], {"split_pattern": r"(?P<test>-11/)"}),
        (["manifest", "metadata"], {}),
        (["boxes"], {}),
        (["boxes"], {"labels_from": "boxes"}),
    ],
)
def test_an_engine_lists_the_spans_of_any_layout(tmp_path, rng, request, kinds, options, many_tasks):
    for number in range(8, 13):  # in another order than their names
        KINDS[kinds[number % len(kinds)]](tmp_path / "data" / f"day-{number}", rng)
    location, options = f"{tmp_path}/data/day-{{SPAN}}", DataOptions(spans="all", **options)
    expected = inspect_dataset(location, options)
    assert {entry.path.partition("/")[0] for entry in expected.entries} == {f"day-{number}" for number in range(8, 13)}
    assert [entry.path for entry in expected.entries] == sorted(entry.path for entry in expected.entries)
    request.getfixturevalue("small_blocks")
    place = ListingPlace(many_tasks(), WorkFolder(str(tmp_path / "work")))
    os.mkdir(place.folder.location)
    listed = inspect_dataset(location, options, lambda: place)
    assert isinstance(listed.entries, StoredEntries) and listed.entries.is_shared
    assert tuple(listed.entries) == expected.entries and len(listed.sketch) == 9
    assert dataclasses.replace(listed, entries=(), sketch=()) == dataclasses.replace(expected, entries=(), sketch=())


def test_spans_with_other_columns_are_completed(tmp_path, rng, small_blocks, many_tasks):
    for number, columns in enumerate((["site"], ["site", "day"], ["day"])):
        write_manifest(tmp_path / "data" / f"day-{number}", rng, columns)
    location, options = f"{tmp_path}/data/day-{{SPAN}}", DataOptions(spans="all")
    listed = [
        inspect_dataset(location, options, engine)
        for engine in (None, lambda: ListingPlace(many_tasks(), WorkFolder(str(tmp_path))))
    ]
    assert listed[0].fingerprint == listed[1].fingerprint and listed[0].columns == ("site", "span", "day")
    for each in listed:
        assert each.slice_columns == ("site", "span", "day")
        for entry in each.entries:
            site, span, day = entry.slices
            assert entry.path.startswith(f"day-{span}/")
            assert (site == "unknown", day == "unknown") == (span == "2", span == "0")
    assert isinstance(listed[1].entries, tuple)  # this process has completed them


def test_the_columns_of_a_span_are_part_of_the_fingerprint(tmp_path, rng):
    write_manifest(tmp_path / "data" / "day-1", rng, ["site", "day"])
    write_manifest(tmp_path / "data" / "day-2", rng, ["site"])
    location, options = f"{tmp_path}/data/day-{{SPAN}}", DataOptions(spans="all")
    before = inspect_dataset(location, options)
    table = tmp_path / "data" / "day-2" / "manifest.csv"
    table.write_text(table.read_text().replace("path,label,site", "path,label,day"))
    after = inspect_dataset(location, options)
    assert before.columns == after.columns == ("site", "day", "span")
    assert before.entries[-1].slices != after.entries[-1].slices and before.fingerprint != after.fingerprint


def test_a_span_without_images_adds_no_value_of_a_slice(tmp_path, rng):
    write_manifest(tmp_path / "day-1", rng, ["site"])
    for name in ("cat", "dog"):
        (tmp_path / "day-2" / name).mkdir(parents=True)
        (tmp_path / "day-2" / name / f"{name}.png").symlink_to("nowhere")
    opened, chosen = open_folder(f"{tmp_path}/day-1", DataOptions()), spans.resolve(f"{tmp_path}/day-{{SPAN}}", "all")
    listed = span_listing.list_spans(str(tmp_path), opened, chosen, DataOptions(spans="all"), None)
    assert listed.slice_values == {"site": {"a", "b"}, "span": {"1", "2"}}


def test_an_engine_reports_the_error_of_a_span(tmp_path, rng, small_blocks, many_tasks):
    for number in range(1, 5):
        write_manifest(tmp_path / "data" / f"day-{number}", rng, ["site"])
    broken = tmp_path / "data" / "day-3" / "manifest.csv"
    broken.write_text(broken.read_text() + "a,b,c,d,e\n")
    location, options = f"{tmp_path}/data/day-{{SPAN}}", DataOptions(spans="all")
    for engine in (None, lambda: ListingPlace(many_tasks(), WorkFolder(str(tmp_path)))):
        with pytest.raises(DatasetError, match=r"day-3/manifest\.csv, line \d+: 5 fields, but 3 columns"):
            inspect_dataset(location, options, engine)
    for number in range(1, 5):  # boxes in YOLO's format, without names of classes in the last span
        root = tmp_path / "yolo" / f"day-{number}"
        for name in ("images", "labels"):
            (root / name).mkdir(parents=True)
        for image in range(6):
            (root / "images" / f"{image}.png").write_bytes(b"x")
            (root / "labels" / f"{image}.txt").write_text(f"{image % 2} 0.5 0.5 0.2 0.2")
        if number < 4:
            (root / "classes.txt").write_text("cat\ndog\n")
    location = f"{tmp_path}/yolo/day-{{SPAN}}"
    for engine in (None, lambda: ListingPlace(many_tasks(), WorkFolder(str(tmp_path)))):
        with pytest.raises(UnnamedClassesError, match="day-4: the labels contain class ids") as raised:
            inspect_dataset(location, options, engine)
        assert raised.value.label_features == BOX_LABEL


def test_spans_of_examples_may_differ_in_slices(tmp_path):
    import tensorflow as tf

    for number, column in enumerate(("site", "day")):
        (tmp_path / f"day-{number}").mkdir()
        with tf.io.TFRecordWriter(str(tmp_path / f"day-{number}" / "images.tfrecord")) as writer:
            for image in range(4):
                example = tf.train.Example()
                for key, value in (
                    ("image/encoded", b"x"),
                    ("image/class/text", f"{image % 2}".encode()),
                    (f"slice/{column}", b"a"),
                ):
                    example.features.feature[key].bytes_list.value.append(value)
                writer.write(example.SerializeToString())
    options = DataOptions(spans="all", classes=["0", "1"])
    listed = inspect_dataset(f"{tmp_path}/day-{{SPAN}}", options)
    assert len(listed.entries) == 2 and set(listed.columns) == {"site", "day"}


# --- In files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """Stores entries, three in a file."""

    def store(entries):
        folder = WorkFolder(str(tmp_path))
        starts = range(0, len(entries), 3)
        blocks = [StoredEntries.store(folder, "listed", start, entries[start : start + 3]) for start in starts]
        return StoredEntries(folder, blocks)

    return store


def entries_of(num, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Entry(
            f"{number:04}é\udce9.png",
            int(rng.integers(1000)),
            number,
            (("image/class/text", (f"{number % 3}",)),),
            split=("train", "test", "")[number % 3],
            group="g" * (number % 2),
            slices=("1",),
        )
        for number in range(num)
    ]


def test_stored_entries_are_a_sequence(stored):
    entries = entries_of(11)
    sequence = stored(entries)
    assert len(sequence) == 11 and list(sequence) == entries and list(sequence) == entries
    assert [sequence[place] for place in range(-11, 11)] == entries + entries
    assert sequence[2:9:3] == entries[2:9:3] and sequence[:] == entries and list(reversed(sequence)) == entries[::-1]
    for place in (11, -12):
        with pytest.raises(IndexError):
            sequence[place]
    assert len(stored([])) == 0 and list(stored([])) == []
    drawn = sequence.with_drawn_train()
    assert [entry.split for entry in drawn] == ["", "test", ""] * 3 + ["", "test"]
    assert EntryTotals.of(drawn) == EntryTotals.of(sequence).with_drawn_train()


@pytest.mark.parametrize("num", [1, 7, 8, 50, 211])
@pytest.mark.parametrize("per_shard", [1, 3, 20])
def test_shards_from_files_are_those_from_memory(
    stored, tmp_path, monkeypatch, small_blocks, num, per_shard, many_tasks
):
    entries = entries_of(num, seed=num)
    monkeypatch.setattr(shards, "_BYTES_PER_SHARD", 4000)
    contents = []
    for name, some in (("memory", entries), ("files", stored(entries))):
        folder = WorkFolder(str(tmp_path / name))
        (tmp_path / name).mkdir()
        sizes = mixed_shards.write(some, folder, many_tasks(), per_shard)
        contents.append([folder.read(shards.ENTRIES, number) for number in range(len(sizes))])
        assert sizes == [len(content) for content in contents[-1]]
    assert contents[0] == contents[1] and len(contents[0]) >= num // per_shard
    restored = sorted(Entry.from_json(values) for content in contents[0] for values in content)
    assert restored == sorted(entries)
