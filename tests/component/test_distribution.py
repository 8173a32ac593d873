"""Two replicas compute the same steps, on one machine or on two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from trainer_module import distribution, private_api

# Separate processes: devices and workers are fixed once TensorFlow computes anything. All are copies of one that has
# imported everything.
PROGRAM = """
import json, os, sys
import keras
import numpy as np
import tensorflow as tf
from trainer_module import distribution, training
from trainer_module.checkpoints import CheckpointFile
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions
from trainer_module.network import build as build_network

def strategy_of(name):
    if name != "mirrored":
        return distribution.strategy(name)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])  # `distribution.strategy` requires a GPU

def train(name, folder, epochs):
    strategy = strategy_of(name)
    keras.utils.set_random_seed(1)
    options = TrainerOptions(
        classes=("a", "b"),
        transform={"image_size": 8},
        model={"name": "scratch_cnn", "blocks": [[4], [4]], "block_dropout": 0},
        task={"dense_units": 4, "dropout": 0, "class_weights": "balanced"},
        training={"epochs": 3, "batch_size": 8, "distribution": name},
    )
    append = training.History.append
    def until_killed(self, row):
        if len(self.rows) == epochs:
            os._exit(0)
        append(self, row)
    training.History.append = until_killed
    images = np.random.default_rng(0).integers(0, 255, (23, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(23) % 2 * (np.arange(23) > 4)  # one class is in one shard
    validation = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    with strategy.scope():
        if name == "mirrored":  # a device has the examples that a worker reads: every second one, and the first twice
            order = np.append(np.arange(23), 0).reshape(3, 4, 2).transpose(0, 2, 1).ravel()
            data = tf.data.Dataset.from_tensor_slices((images[order], labels[order])).batch(8)
        else:
            shard = distribution.shard()
            data = shard.of(validation.unbatch(), 23).batch(shard.batch_size(8))
        model = build_network(options, PixelStatistics(np.full(3, 120, "f"), np.full(3, 900, "f")))
        # One file for all workers, as in a shared folder; one of them writes it.
        checkpoint = CheckpointFile(folder + "/../checkpoint.npz", "key", is_written=distribution.is_chief(strategy))
        history = training.train(
            model, options, train_data=data, validation_data=validation, run_dir=folder,
            checkpoint=checkpoint if name == "multi_worker" else None,
        )
    metrics = [history.history[name] for name in ("loss", "val_loss", "val_accuracy")]
    steps = int(model.optimizer.iterations.numpy())
    return [distribution.is_chief(strategy), strategy.num_replicas_in_sync, metrics, steps]

failed = False
for group in json.loads(sys.argv[1]):
    children = []
    for job in group:
        if child := os.fork():
            children.append(child)
            continue
        os.environ.update(job["environment"])
        result = train(job["name"], job["folder"], job["epochs"])
        with open(job["folder"] + "/result.json", "w") as file:
            json.dump(result, file)
        os._exit(0)
    failed |= any([os.waitpid(child, 0)[1] for child in children])
sys.exit(failed)
"""


def job(name, folder, epochs=None, **environment):
    """One process; it ends without a result after a number of epochs, as if killed."""
    folder.mkdir(exist_ok=True)
    return {"name": name, "folder": str(folder), "epochs": epochs, "environment": environment}


def workers(folder, ports, epochs=None):
    addresses = [f"127.0.0.1:{port}" for port in ports]
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        yield job("multi_worker", folder / str(index), epochs, TF_CONFIG=json.dumps(cluster))


def test_two_devices_and_two_workers_compute_the_same_metrics(tmp_path, free_ports):
    """The workers are killed after their second epoch and resume."""
    ports = free_ports(4)
    killed, resumed = workers(tmp_path, ports[:2], epochs=2), workers(tmp_path, ports[2:])
    groups = [[*killed], [*resumed, job("mirrored", tmp_path / "mirrored")]]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(groups)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, mirrored = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("0", "1", "mirrored")
    )
    assert first[:2] == [True, 2] and second[:2] == [False, 2] and mirrored[:2] == [True, 2]
    assert first[2] == second[2] and len(first[2][0]) == 3
    assert first[3] == mirrored[3] == 9, "steps"
    assert (tmp_path / "checkpoint.npz").is_file()
    for one, other in zip(first[2], mirrored[2], strict=True):
        assert one == pytest.approx(other, rel=1e-6)


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
