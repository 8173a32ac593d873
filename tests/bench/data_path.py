"""Measures the way from files to batches: ours against the canonical form, in one run.

    python tests/bench/data_path.py [--data DIR] [--num N]... [--profile]

The first --num is compared with the canonical form; every one is measured for how time and memory grow. Without --data
the images are 32-px crops of the two photographs that scikit-learn ships, in ten classes; with it, the first N
images of its class folders. Photographs of 224 px are always such crops.
"""

import argparse
import contextlib
import cProfile
import json
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trainer_module  # noqa: F401  (says which Keras before anything imports TensorFlow)

# As TFX's users give them; ours adds the flag that keeps TFX from packing itself up before every node.
BEAM = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"]


def write_crops(folder: Path, num: int, side: int = 32, suffix: str = "png") -> None:
    """Writes `num` square crops in ten class folders."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(1)
    photographs = load_sample_images().images
    rows, columns = (length - side for length in photographs[0].shape[:2])
    # Different ones: an image in two classes is refused.
    positions = rng.permutation(rows * columns)
    for index in range(num):
        photograph = photographs[index % 2]
        y, x = divmod(int(positions[index // 2]), columns)
        path = folder / f"class-{index % 10}" / f"{index:06d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[y : y + side, x : x + side]).save(path, quality=90)


def link_images(source: Path, folder: Path, num: int) -> None:
    """Links the first images of every class folder, `num` in all."""
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    for index, path in enumerate(classes):
        (folder / path.name).mkdir(parents=True)
        for image in sorted(path.iterdir())[: num // len(classes) + (index < num % len(classes))]:
            os.link(image, folder / path.name / image.name)


def bytes_below(folder: Path) -> int:
    """Size of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(form: str, data: str, run_dir: str, image_size: int, profile: bool) -> dict:
    """Runs one form in this process: seconds of every node, peak memory, bytes on disk."""
    from pipeline import dag
    from pipeline.config import loading
    from pipeline.execution import dataset, node_runner

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results: list = []
    if form == "canonical":
        import canonical

        pipeline, to_node = canonical.create_pipeline(data, run_dir, BEAM), None
    else:
        loaded = loading.load(
            "images", data=data, overrides=[f"pipeline.root={run_dir}", f"transform.image_size={image_size}"]
        )
        loaded.run_dir.mkdir(parents=True)
        pipeline, to_node = (
            dag.create_pipeline(loaded, dataset.prepare(loaded), metadata_path=loaded.metadata_path),
            "Transform",
        )
    with cProfile.Profile() if profile else contextlib.nullcontext() as profiler:
        node_runner.run(pipeline, run_id=form, to_node=to_node, on_node=results.append)
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats(60)
    measured = {
        "seconds": {node.id: round(node.seconds, 1) for node in results if node.state == "complete"},
        "bytes": bytes_below(Path(run_dir)),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "start_mib": before // 1024,
    }
    if form == "ours":
        measured["epochs"] = epochs(
            Path(run_dir) / pipeline.pipeline_info.pipeline_name / "artifacts", loaded.transform
        )
    return measured


def epochs(artifacts: Path, options) -> list[int]:
    """Images a second that the input pipeline gives in the first and in later epochs."""
    import tensorflow as tf
    import tensorflow_transform as tft

    from trainer_module import input_pipeline, tasks

    (graph,) = artifacts.glob("Transform/transform_graph/*")
    files = [str(next(artifacts.glob("ImageExampleGen/examples/*")) / "Split-train" / "*")]
    output = tft.TFTransformOutput(str(graph))
    layer, spec = output.transform_features_layer(), output.raw_feature_spec()
    num = input_pipeline.count_records(files)
    examples = input_pipeline.read_examples(
        files,
        lambda serialized: layer(tf.io.parse_example(serialized, spec)),
        options,
        num_examples=num,
        cache_dir=tempfile.mkdtemp(),
        read_label=tasks.get("classification").read_label,
    )
    batches = input_pipeline.batch_examples(examples, 128, shuffle_seed=1)
    rates = []
    for _ in range(3):
        start = time.monotonic()
        seen = sum(int(labels.shape[0]) for _, labels in batches)
        assert seen == num
        rates.append(round(seen / (time.monotonic() - start)))
    return rates


def compare(canonical: dict, ours: dict) -> None:
    """Prints the table."""
    stages = [
        ("example generation", "FileBasedExampleGen", "ImageExampleGen"),
        ("statistics", "StatisticsGen", "StatisticsGen"),
        ("schema", "SchemaGen", "SchemaGen"),
        ("validation", "", "ExampleValidator"),
        ("Transform", "Transform", "Transform"),
    ]
    print("\n| | canonical | ours | ratio |\n|---|---|---|---|")
    for name, theirs, mine in stages:
        before, after = canonical["seconds"].get(theirs, 0.0), ours["seconds"].get(mine, 0.0)
        print(f"| {name}, s | {before:.1f} | {after:.1f} | {f'{before / after:.1f}' if before and after else ''} |")
    before, after = total(canonical), total(ours)
    print(f"| all, s | {before:.1f} | {after:.1f} | {before / after:.1f} |")
    before, after = canonical["bytes"] / 2**20, ours["bytes"] / 2**20
    print(f"| on disk, MiB | {before:.0f} | {after:.0f} | {before / after:.1f} |")
    print(f"| peak memory, MiB | {canonical['peak_mib']} | {ours['peak_mib']} | |")


def total(measured: dict) -> float:
    """Seconds of all nodes."""
    return sum(measured["seconds"].values())


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--num", type=int, action="append")
    parser.add_argument("--profile", action="store_true", help="print where ours spends its time")
    parser.add_argument("--form", choices=["canonical", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--image-size", type=int, default=32, help=argparse.SUPPRESS)
    parser.add_argument("--run-dir", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.form:
        measured = measure(
            arguments.form, str(arguments.data), arguments.run_dir, arguments.image_size, arguments.profile
        )
        print(json.dumps(measured))
        return
    # Beside the images, so that they can be linked.
    with tempfile.TemporaryDirectory(dir=arguments.data and arguments.data.parent) as work:

        def run(form: str, data: Path, *more: str) -> dict:
            command = [sys.executable, __file__, "--form", form, "--data", str(data)]
            with tempfile.TemporaryDirectory(dir=work) as run_dir:
                command += ["--run-dir", run_dir, *more]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            if "--profile" in more:
                print(done.stderr[done.stderr.index("function calls") - 20 :], file=sys.stderr)
            return json.loads(done.stdout.splitlines()[-1])

        def images(num: int) -> Path:
            folder = Path(work) / f"images-{num}"
            if arguments.data is None:
                write_crops(folder, num)
            else:
                link_images(arguments.data, folder, num)
            return folder

        numbers = arguments.num or [10_000, 1_000]
        grown = {}
        for num in numbers:
            data = images(num)
            if num == numbers[0]:
                canonical = run("canonical", data)
            grown[num] = run("ours", data, *(["--profile"] if arguments.profile and num == numbers[0] else []))
            if num == numbers[0]:
                print(f"{num:,} images of 32 px")
                compare(canonical, grown[num])
        print("\n| images | data path, s | ms a image | peak memory, MiB | input, images a second, by epoch |")
        print("|---|---|---|---|---|")
        for num, measured in sorted(grown.items()):
            rates = ", ".join(f"{rate:,}" for rate in measured["epochs"])
            seconds = total(measured)
            print(f"| {num:,} | {seconds:.1f} | {1000 * seconds / num:.2f} | {measured['peak_mib']} | {rates} |")
        photographs = Path(work) / "photographs"
        write_crops(photographs, 2000, 224, "jpg")
        ours = run("ours", photographs, "--image-size", "224")
        rates = ", ".join(f"{rate:,}" for rate in ours["epochs"])
        print(f"\n2,000 JPEG files of 224 px: data path {total(ours):.1f} s, input, images a second, by epoch: {rates}")


if __name__ == "__main__":
    main()
