"""Listing: once for a dataset that is in use, and several folders of a store at a time."""

from components.image_example_gen import dataset, files
from components.image_example_gen.dataset import inspect_dataset, listed_dataset, remember
from components.image_example_gen.options import DataOptions


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
