"""Two replicas compute the same steps, on one machine or on two."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from trainer_module import distribution, private_api

# Separate processes: devices and workers are fixed once TensorFlow computes anything.
PROGRAM = """
import json, sys
import tensorflow as tf
name, run_dir = sys.argv[1:3]
if name == "mirrored":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])  # `distribution.strategy` requires a GPU
from trainer_module import distribution
if name != "mirrored":
    strategy = distribution.strategy(name)
import keras
import numpy as np
from trainer_module import training
from trainer_module.checkpoints import CheckpointFile
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions
from trainer_module.network import build as build_network
keras.utils.set_random_seed(1)
options = TrainerOptions(
    classes=("a", "b"),
    transform={"image_size": 8},
    model={"name": "scratch_cnn", "blocks": [[4], [4]], "block_dropout": 0},
    task={"dense_units": 4, "dropout": 0},
    training={"epochs": 3, "batch_size": 8, "distribution": name},
)
if len(sys.argv) > 3:  # exits after this number of epochs, as if killed
    append = training.History.append
    def killed(self, row):
        if len(self.rows) == int(sys.argv[3]):
            sys.exit(0)
        append(self, row)
    training.History.append = killed
images = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), dtype=np.uint8)
data = tf.data.Dataset.from_tensor_slices((images, np.arange(24) % 2)).batch(8)
with strategy.scope():
    model = build_network(options, PixelStatistics(np.full(3, 120, "f"), np.full(3, 900, "f")))
    # One file for all workers, as in a shared folder; one of them writes it.
    checkpoint = CheckpointFile(run_dir + "/../checkpoint.npz", "key", is_written=distribution.is_chief(strategy))
    history = training.train(
        model, options, train_data=data, validation_data=data, run_dir=run_dir,
        checkpoint=checkpoint if name == "multi_worker" else None,
    )
metrics = [history.history[name] for name in ("loss", "val_loss", "val_accuracy")]
print(json.dumps([distribution.is_chief(strategy), strategy.num_replicas_in_sync, metrics]))
"""


def start(name, run_dir, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, name, str(run_dir), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
    )


def start_workers(folder, *arguments):
    addresses = [free_address(), free_address()]
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        yield start("multi_worker", folder / str(index), *arguments, TF_CONFIG=json.dumps(cluster))


def results(processes):
    processes = list(processes)
    try:
        for process in processes:
            output, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
            yield json.loads(output.splitlines()[-1]) if output else None
    finally:
        for process in processes:
            process.kill()


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_two_devices_and_two_workers_compute_the_same_metrics(tmp_path):
    """The workers are killed after their second epoch and resume."""
    assert list(results(start_workers(tmp_path, "2"))) == [None, None]
    processes = [*start_workers(tmp_path), start("mirrored", tmp_path / "mirrored")]
    first, second, mirrored = results(processes)
    assert first[:2] == [True, 2] and second[:2] == [False, 2] and mirrored[:2] == [True, 2]
    assert first[2] == second[2]
    for one, other in zip(first[2], mirrored[2], strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_the_workaround_is_skipped_if_keras_renames_its_methods(caplog):
    current = type("Model", (), {"_symbolic_build": dict, "_maybe_symbolic_build": None})()
    distribution._set_batch(current, "batch")
    assert current._maybe_symbolic_build(iterator=None) == {"data_batch": "batch"}
    renamed = type("Model", (), {"_symbolic_build": dict})()
    assert private_api.prepare(private_api.MULTI_WORKER_FIT, lambda: distribution._set_batch(renamed, "batch")) is None
    assert not vars(renamed) and len(caplog.records) == 1


def test_mirrored_requires_a_gpu():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match=r'requires a GPU.*use "none"'):
        distribution.strategy("mirrored")


def test_multi_worker_requires_a_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="requires the environment variable TF_CONFIG"):
        distribution.strategy("multi_worker")
    assert distribution.is_chief(distribution.strategy("none"))
