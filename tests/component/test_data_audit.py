"""DataAudit on the artifacts of a run: suspects of all splits, thumbnails, properties."""

import json

import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

import components
from components.data_audit import executor
from components.data_audit.artifact import Audit
from components.image_example_gen.artifact import Correction, Quarantine, Summary
from trainer_module import features


def relabelled(serialized, number, name):
    example = tf.train.Example.FromString(serialized)
    feature = example.features.feature
    feature[features.IMAGE_FILENAME].bytes_list.value[:] = [f"{number}.png".encode()]
    feature[features.CLASS_TEXT].bytes_list.value[:] = [name.encode()]
    return example.SerializeToString()


@pytest.fixture
def audited(tiny_model, tmp_path):
    """Runs the executor on 36 examples in two splits; a person has confirmed the wrong label of image 2."""

    def run():
        inputs = {
            "examples": standard_artifacts.Examples(),
            "quarantine": components.Quarantine(),
            "model": standard_artifacts.Model(),
            "model_run": standard_artifacts.ModelRun(),
        }
        for name, artifact in inputs.items():
            artifact.uri = str(tmp_path / name)
        inputs["model"].uri = tiny_model.serving_dir.rpartition("/")[0]
        (tmp_path / "model_run").mkdir()
        (tmp_path / "model_run" / features.OPTIONS_FILE).write_text(tiny_model.options.model_dump_json())
        inputs["examples"].split_names = '["train", "test"]'
        names = [tiny_model.options.classes[index % 3] for index in range(36)]
        names[1] = names[2] = "blue"
        records = [relabelled(tiny_model.examples[index % 12], index, name) for index, name in enumerate(names)]
        for split, part in (("train", records[:24]), ("test", records[24:])):
            folder = tmp_path / "examples" / f"Split-{split}"
            folder.mkdir(parents=True)
            with tf.io.TFRecordWriter(str(folder / "data-00000-of-00001")) as writer:
                for record in part:
                    writer.write(record)
        confirmed = Correction(path="2.png", action="keep", before=("blue",), after=("blue",))
        summary = Summary(examples=36, quarantined=0, reasons={}, splits={}, duplicates={}, corrections={"keep": 1})
        Quarantine(summary, corrections=(confirmed,)).write(inputs["quarantine"].uri)
        output = components.DataAudit()
        output.uri = str(tmp_path / "audit")
        executor.Executor().Do(
            {name: [each] for name, each in inputs.items()}, {"audit": [output]}, {"source_hash": ""}
        )
        return output, Audit.read(output.uri)

    return run


def test_suspects_of_all_splits(audited, tmp_path):
    output, audit = audited()
    assert audit.summary.images == 36 and audit.summary.source == "the trained network"
    names = {suspect.filename for suspect in audit.suspects}
    # The same image has another label in two other examples.
    assert "1.png" in names and "2.png" not in names
    assert {suspect.reason for suspect in audit.suspects} >= {"near duplicate", "near duplicate with another label"}
    assert output.get_int_custom_property("suspects") == len(audit.suspects)
    first = audit.suspects[0].filename
    assert audit.thumbnails[first].startswith(b"\x89PNG") and len(audit.thumbnails) <= 12
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["format"] == 1
