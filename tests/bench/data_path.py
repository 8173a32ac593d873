"""Measures the way from files to batches: ours against the canonical form, in one run.

    python tests/bench/data_path.py [--data DIR] [--num N]

Without --data the pictures are 32-px crops of the two photographs that scikit-learn ships, in ten classes.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trainer_module  # noqa: F401  (says which Keras before anything imports TensorFlow)

# As TFX's users give them; ours adds the flag that keeps TFX from packing itself up before every node.
BEAM = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"]


def write_crops(folder: Path, num: int) -> None:
    """Writes `num` PNG crops in ten class folders."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(1)
    photographs = load_sample_images().images
    for index in range(num):
        photograph = photographs[index % 2]
        y, x = (int(rng.integers(0, side - 32)) for side in photograph.shape[:2])
        path = folder / f"class-{index % 10}" / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[y : y + 32, x : x + 32]).save(path)


def bytes_below(folder: Path) -> int:
    """Size of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(form: str, data: str, run_dir: str) -> dict:
    """Runs one form in this process: seconds of every node, peak memory, bytes on disk."""
    from pipeline import config, dag, execution
    from pipeline.runners import local

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results: list = []
    if form == "canonical":
        import canonical

        pipeline, to_node = canonical.create_pipeline(data, run_dir, BEAM), None
    else:
        loaded = config.load(
            "pictures", data=Path(data), overrides=[f"pipeline.root={run_dir}", "transform.image_size=32"]
        )
        loaded.run_dir.mkdir(parents=True)
        pipeline, to_node = dag.create_pipeline(loaded, execution.prepare(loaded)), "Transform"
    local.run(pipeline, run_id=form, to_node=to_node, on_node=results.append)
    seconds = {node.id: round(node.seconds, 1) for node in results if node.state == "complete"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "seconds": seconds,
        "bytes": bytes_below(Path(run_dir)),
        "peak_mib": peak // 1024,
        "start_mib": before // 1024,
    }
    if form == "ours":
        found["epochs"] = epochs(Path(run_dir) / pipeline.pipeline_info.pipeline_name / "artifacts", loaded.transform)
    return found


def epochs(artifacts: Path, options) -> list[int]:
    """Pictures a second that the input pipeline gives in the first and in later epochs."""
    import tensorflow as tf
    import tensorflow_transform as tft

    from trainer_module import input_pipeline

    (graph,) = artifacts.glob("Transform/transform_graph/*")
    files = [str(next(artifacts.glob("ImageExampleGen/examples/*")) / "Split-train" / "*")]
    output = tft.TFTransformOutput(str(graph))
    layer, spec = output.transform_features_layer(), output.raw_feature_spec()
    num = input_pipeline.count(files)
    batches = input_pipeline.batches(
        files,
        lambda serialized: layer(tf.io.parse_example(serialized, spec)),
        options,
        128,
        num_examples=num,
        cache_dir=tempfile.mkdtemp(),
        shuffle_seed=1,
    )
    rates = []
    for _ in range(3):
        start = time.monotonic()
        seen = sum(int(labels.shape[0]) for _, labels in batches)
        assert seen == num
        rates.append(round(seen / (time.monotonic() - start)))
    return rates


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--form", choices=["canonical", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--run-dir", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.form:
        print(json.dumps(measure(arguments.form, str(arguments.data), arguments.run_dir)))
        return
    with tempfile.TemporaryDirectory() as work:
        data = arguments.data
        if data is None:
            data = Path(work) / "crops"
            write_crops(data, arguments.num)
        found = {}
        for form in ("canonical", "ours"):
            command = [sys.executable, __file__, "--form", form, "--data", str(data), "--run-dir", f"{work}/{form}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            found[form] = json.loads(done.stdout.splitlines()[-1])
    canonical, ours = found["canonical"], found["ours"]
    stages = [
        ("example generation", "FileBasedExampleGen", "ImageExampleGen"),
        ("statistics", "StatisticsGen", "StatisticsGen"),
        ("schema", "SchemaGen", "SchemaGen"),
        ("validation", "", "ExampleValidator"),
        ("Transform", "Transform", "Transform"),
    ]
    print("| | canonical | ours | ratio |\n|---|---|---|---|")
    for name, theirs, mine in stages:
        before, after = canonical["seconds"].get(theirs, 0.0), ours["seconds"].get(mine, 0.0)
        print(f"| {name}, s | {before:.1f} | {after:.1f} | {f'{before / after:.1f}' if before and after else ''} |")
    before, after = sum(canonical["seconds"].values()), sum(ours["seconds"].values())
    print(f"| all, s | {before:.1f} | {after:.1f} | {before / after:.1f} |")
    before, after = canonical["bytes"] / 2**20, ours["bytes"] / 2**20
    print(f"| on disk, MiB | {before:.0f} | {after:.0f} | {before / after:.1f} |")
    print(f"| peak memory, MiB | {canonical['peak_mib']} | {ours['peak_mib']} | |")
    print(f"\nInput pipeline, ours, pictures a second, epoch by epoch: {ours['epochs']}")


if __name__ == "__main__":
    main()
