"""GradCam's work: decide on a split, choose the most telling decisions, explain them, measure the explanations."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.utils import shared
from tfx import types
from tfx.components.evaluator import constants as evaluator_constants
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components.grad_cam import decisions, findings, index_page
from trainer_module import faithfulness, features, grad_cam, keras_file, overlays
from trainer_module.fused_normalization import fused
from trainer_module.options import FAITHFULNESS, OF_MASKS, TrainerOptions

# Of one batch no more pixels are held; of masks fewer, whose networks keep maps of the picture's size.
_MOST_PIXELS = {"classification": 2**22, "segmentation": 2**20}
_LARGEST_BATCH = 64

# filename → explained class's id → why it was chosen.
Chosen = Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]


class _Network:
    """The model and what is asked of it; each is traced on first use."""

    def __init__(self, keras_path: str, options: TrainerOptions) -> None:
        model, said = keras_file.load(keras_path), options.grad_cam

        @tf.function(reduce_retracing=True)
        def predict(images: tf.Tensor) -> tf.Tensor:
            with fused(model):
                return tf.cast(model(tf.cast(images, tf.float32), training=False), tf.float32)

        self.predict = predict
        self.explain = grad_cam.explainer(model, said.method, said.layer)
        self.measure = faithfulness.measurer(model, said.faithfulness_steps)


class _NetworkDoFn(beam.DoFn):
    """Shares one loaded model with all that work in its process."""

    def __init__(self, handle: shared.Shared, keras_path: str, options: TrainerOptions, slices: Sequence[str]) -> None:
        self._handle, self._keras_path = handle, keras_path
        self._options_json, self._slices = options.model_dump_json(), tuple(slices)

    def setup(self) -> None:
        self._options = TrainerOptions.model_validate_json(self._options_json)
        self._network = self._handle.acquire(lambda: _Network(self._keras_path, self._options))

    def batches(self, serialized: Sequence[bytes]) -> Iterator[decisions.Batch]:
        rows = [decisions.read(record, self._options, self._slices) for record in serialized]
        return decisions.batches(rows, self._options, _batch_size(self._options))


class _Judge(_NetworkDoFn):
    """Batch of raw examples → ((class or slice, why), (how much so, file name, class id)); tagged `sample`, names."""

    SAMPLE = "sample"

    def process(self, serialized: list[bytes]) -> Iterable[Any]:
        named = set()  # a picture may hold several decisions
        for batch in self.batches(serialized):
            found = decisions.judge(self._network.predict(batch.pixels), batch, self._options)
            for i in np.flatnonzero(found.exists):
                row, class_id = batch.rows[i], int(found.class_ids[i])
                name = (row.filename, class_id)
                if row.filename not in named:
                    named.add(row.filename)
                    yield beam.pvalue.TaggedOutput(self.SAMPLE, (row.sha256, row.filename))
                why = findings.CONFIDENT_RIGHT if found.right[i] else findings.CONFIDENT_WRONG
                group = row.truth if batch.masks is None else class_id
                of_class = [f"class = {self._options.classes[group]}"] if group >= 0 else []
                for of in (*of_class, *row.slices):
                    yield (of, why), (float(found.confidence[i]), *name)
                    yield (of, findings.UNCERTAIN), (-float(found.margin[i]), *name)


class _Explain(_NetworkDoFn):
    """Batch of raw examples → PNG files and entries; tagged, heat maps as tf.Examples, and figures by their names."""

    HEATMAPS, FIGURES = "heatmaps", "figures"

    def __init__(self, *of_network: Any, output_dir: str) -> None:
        super().__init__(*of_network)
        self._output_dir = output_dir

    def setup(self) -> None:
        super().setup()
        self._colors = overlays.color_table(self._options.grad_cam.colormap)

    def process(self, serialized: list[bytes], chosen: Chosen, sample: frozenset[str]) -> Iterable[Any]:
        everything = self._options.grad_cam.select == "everything"
        for batch in self.batches(serialized):
            explanation = self._network.explain(batch.pixels, batch.class_ids, batch.regions)
            verdicts = decisions.judge(explanation.logits, batch, self._options)
            names = [row.filename for row in batch.rows]
            existing = np.flatnonzero(verdicts.exists).tolist()
            drawn = [i for i in existing if verdicts.class_ids[i] in chosen.get(names[i], {})]
            heatmaps = explanation.heatmap.numpy()
            for i in existing if everything else drawn:
                heat = self._example(batch.rows[i], verdicts, i, heatmaps[i])
                yield beam.pvalue.TaggedOutput(self.HEATMAPS, heat.SerializeToString())
            if drawn:
                yield from self._draw(batch, verdicts, drawn, explanation.heatmap, chosen)
            measured = [i for i in existing if names[i] in sample]
            if measured:
                for figure in self._measure(batch, explanation, measured):
                    yield beam.pvalue.TaggedOutput(self.FIGURES, figure)

    def _example(
        self, row: decisions.Row, verdicts: decisions.Verdicts, i: int, heatmap: np.ndarray
    ) -> tf.train.Example:
        classes = self._options.classes
        class_id = int(verdicts.class_ids[i])

        def text(value: str) -> tf.train.Feature:
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))

        def integer(value: int) -> tf.train.Feature:
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

        feature = {
            features.IMAGE_FILENAME: text(row.filename),
            features.IMAGE_SHA256: text(row.sha256),
            findings.CLASS_ID: integer(class_id),
            findings.CLASS_TEXT: text(classes[class_id]),
            findings.PREDICTED_TEXT: text(classes[int(verdicts.predicted[i])]),
            findings.SCORE: tf.train.Feature(float_list=tf.train.FloatList(value=[verdicts.scores[i]])),
            findings.IS_RIGHT: integer(int(verdicts.right[i])),
            findings.HEATMAP: tf.train.Feature(float_list=tf.train.FloatList(value=heatmap.ravel())),
            findings.HEIGHT: integer(heatmap.shape[0]),
            findings.WIDTH: integer(heatmap.shape[1]),
        }
        if row.truth >= 0:
            feature[findings.TRUE_TEXT] = text(classes[row.truth])
        return tf.train.Example(features=tf.train.Features(feature=feature))

    def _draw(
        self,
        batch: decisions.Batch,
        verdicts: decisions.Verdicts,
        drawn: Sequence[int],
        heatmaps: tf.Tensor,
        chosen: Chosen,
    ) -> Iterator[dict[str, Any]]:
        pixels, heatmaps = tf.gather(batch.pixels, drawn), tf.gather(heatmaps, drawn)
        images = {
            "picture": overlays.overlay(pixels, tf.zeros_like(heatmaps), self._colors, alpha=0.0),
            "heatmap": tf.cast(tf.round(heatmaps * 255.0), tf.uint8)[..., tf.newaxis],
            "overlay": overlays.overlay(pixels, heatmaps, self._colors, self._options.grad_cam.alpha),
        }
        encoded = {name: overlays.encode_png(image, overlays.QUICK).numpy() for name, image in images.items()}
        classes = self._options.classes
        for at, i in enumerate(drawn):
            row, class_id = batch.rows[i], int(verdicts.class_ids[i])
            group = class_id if batch.masks is not None or row.truth < 0 else row.truth
            # By class id and a digest: the names of classes and files are the user's text and may not fit in a path.
            stem = f"{group:03d}/{hashlib.sha256(f'{class_id} {row.filename}'.encode()).hexdigest()[:16]}"
            tf.io.gfile.makedirs(os.path.join(self._output_dir, f"{group:03d}"))
            paths = {name: f"{stem}-{name}.png" for name in images}
            for name, path in paths.items():
                with tf.io.gfile.GFile(os.path.join(self._output_dir, path), "wb") as file:
                    file.write(encoded[name][at])
            entry = findings.Entry(
                filename=row.filename,
                class_=classes[group],
                explained=classes[class_id],
                predicted=classes[int(verdicts.predicted[i])],
                score=round(float(verdicts.scores[i]), 6),
                kind=findings.RIGHT if verdicts.right[i] else findings.WRONG,
                empty=not heatmaps[at].numpy().any(),
                reasons=[findings.Reason(**reason) for reason in chosen[row.filename][class_id]],
                **paths,
            )
            yield entry.model_dump()

    def _measure(
        self, batch: decisions.Batch, explanation: grad_cam.Explanation, measured: Sequence[int]
    ) -> Iterator[tuple[str, float]]:
        part = grad_cam.Explanation(*(None if value is None else tf.gather(value, measured) for value in explanation))
        figures = {
            name: value.numpy()
            for name, value in self._network.measure(tf.gather(batch.pixels, measured), part)._asdict().items()
        }
        if batch.masks is not None:
            heatmaps, class_ids = part.heatmap.numpy(), part.class_id.numpy()
            inside = batch.masks[list(measured)] == class_ids[:, np.newaxis, np.newaxis]
            figures["pointing_game"] = faithfulness.pointing_game(heatmaps, inside)
            figures["energy_inside"] = faithfulness.energy_inside(heatmaps, inside)
        for name, values in figures.items():
            for value in values[~np.isnan(values)]:
                yield name, float(value)


def _batch_size(options: TrainerOptions) -> int:
    most = _MOST_PIXELS[options.task.name] // options.transform.image_size**2
    return max(1, min(_LARGEST_BATCH, most))


def _by_filename(reasons: Iterable[tuple[tuple[str, str], list[tuple[float, str, int]]]]) -> Chosen:
    """What was chosen for every class and slice, as a table of pictures."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for (of, why), best in sorted(reasons):
        for rank, (_, filename, class_id) in enumerate(best, start=1):
            found.setdefault(filename, {}).setdefault(class_id, []).append({"of": of, "why": why, "rank": rank})
    return found


def _is_wanted(serialized: bytes, chosen: Chosen, sample: frozenset[str]) -> bool:
    feature = tf.train.Example.FromString(serialized).features.feature
    filename = feature[features.IMAGE_FILENAME].bytes_list.value[0].decode()
    return filename in chosen or filename in sample


class _MeanAndCount(beam.CombineFn):
    """Numbers → their mean and how many they are."""

    def create_accumulator(self) -> tuple[float, int]:
        return 0.0, 0

    def add_input(self, accumulator: tuple[float, int], value: float) -> tuple[float, int]:
        return accumulator[0] + value, accumulator[1] + 1

    def merge_accumulators(self, accumulators: Iterable[tuple[float, int]]) -> tuple[float, int]:
        totals, counts = zip(*accumulators, strict=True)
        return sum(totals), sum(counts)

    def extract_output(self, accumulator: tuple[float, int]) -> tuple[float, int]:
        return accumulator[0] / accumulator[1], accumulator[1]


class Executor(base_beam_executor.BaseBeamExecutor):
    """Beam executor of GradCam."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Explains the chosen decisions, or all, and measures the explanations of a sample.

        The split is read twice: what is chosen is known only when all has been predicted. Between the two passes no
        pictures are kept, but their names.

        Args:
          input_dict: `model`, `model_run` (with the Keras file), `examples` (raw).
          output_dict: `explanations`: PNG files, and what `components.grad_cam.findings` names; int properties
            `explained`, `blessed` and `current_model_id`, a float property for every figure of faithfulness.
          exec_properties: `options` (TrainerOptions as JSON), `split`, `slices` (a JSON list of names).
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        options, split = TrainerOptions.model_validate_json(exec_properties["options"]), exec_properties["split"]
        explanations = artifact_utils.get_single_instance(output_dict["explanations"])
        keras_path = os.path.join(artifact_utils.get_single_uri(input_dict["model_run"]), features.KERAS_FILE)
        pattern = io_utils.all_files_pattern(artifact_utils.get_split_uri(input_dict["examples"], split))
        slices = json.loads(exec_properties["slices"])
        entries, figures = self._explain(options, slices, keras_path, pattern, explanations.uri)
        report = _report(options, split, figures)
        self._write(explanations.uri, findings.INDEX_FILE, json.dumps(findings.as_rows(entries), indent=2))
        self._write(explanations.uri, findings.FAITHFULNESS_FILE, report.model_dump_json(indent=2))
        self._write(explanations.uri, findings.PAGE_FILE, index_page.render(entries, report, options))
        explanations.set_int_custom_property("explained", len(entries))
        explanations.set_int_custom_property("blessed", int(report.blessed))
        model = artifact_utils.get_single_instance(input_dict["model"])
        explanations.set_int_custom_property(evaluator_constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
        for figure in report.figures:
            if figure.value is not None:
                explanations.set_float_custom_property(figure.name, figure.value)

    def _explain(
        self, options: TrainerOptions, slices: Sequence[str], keras_path: str, pattern: str, output_dir: str
    ) -> tuple[list[findings.Entry], dict[str, tuple[float, int]]]:
        said, size = options.grad_cam, _batch_size(options)
        of_network = (shared.Shared(), keras_path, options, slices)
        counts = {
            findings.CONFIDENT_RIGHT: said.most_confident_right,
            findings.CONFIDENT_WRONG: said.most_confident_wrong,
            findings.UNCERTAIN: said.least_certain,
        }
        sampled = said.faithfulness_sample if said.faithfulness else 0
        entries_path, figures_path = (os.path.join(output_dir, name) for name in ("entries", "figures"))
        batch = beam.BatchElements(min_batch_size=size, max_batch_size=size)
        with self._make_beam_pipeline() as pipeline:
            judged = (
                pipeline
                | "Read" >> beam.io.ReadFromTFRecord(pattern)
                | "Batch" >> batch
                | "Judge" >> beam.ParDo(_Judge(*of_network)).with_outputs(_Judge.SAMPLE, main="decisions")
            )
            best = [
                judged.decisions
                | f"Only {why}" >> beam.Filter(lambda decision, why: decision[0][1] == why, why)
                | f"Best {why}" >> beam.combiners.Top.LargestPerKey(count)
                for why, count in counts.items()
                if count
            ]
            chosen = (
                (best or [pipeline | "Nothing" >> beam.Create([])])
                | "All" >> beam.Flatten()
                | "List" >> beam.combiners.ToList()
                | "ByName" >> beam.Map(_by_filename)
            )
            sample = (
                judged[_Judge.SAMPLE]
                | "Sample" >> beam.combiners.Top.Smallest(max(1, sampled))
                | "Names" >> beam.Map(lambda drawn: frozenset(name for _, name in drawn[:sampled]))
            )
            of_all = (beam.pvalue.AsSingleton(chosen), beam.pvalue.AsSingleton(sample))
            wanted = pipeline | "ReadAgain" >> beam.io.ReadFromTFRecord(pattern)
            if said.select != "everything":
                wanted |= "Wanted" >> beam.Filter(_is_wanted, *of_all)
            explained = (
                wanted
                | "BatchAgain" >> batch
                | "Explain"
                >> beam.ParDo(_Explain(*of_network, output_dir=output_dir), *of_all).with_outputs(
                    _Explain.HEATMAPS, _Explain.FIGURES, main="entries"
                )
            )
            _ = explained[_Explain.HEATMAPS] | "WriteHeatmaps" >> beam.io.WriteToTFRecord(
                os.path.join(output_dir, findings.HEATMAPS_PREFIX), file_name_suffix=".gz"
            )
            _ = explained.entries | "Json" >> beam.Map(json.dumps) | "Write" >> _lines(entries_path)
            _ = (
                explained[_Explain.FIGURES]
                | "Means" >> beam.CombinePerKey(_MeanAndCount())
                | "FigureJson" >> beam.Map(json.dumps)
                | "WriteFigures" >> _lines(figures_path)
            )
        entries = [findings.Entry.model_validate_json(line) for line in _taken(entries_path)]
        entries.sort(key=lambda entry: (options.classes.index(entry.class_), entry.kind, -entry.score, entry.filename))
        return entries, {name: (mean, count) for name, (mean, count) in map(json.loads, _taken(figures_path))}

    def _write(self, folder: str, name: str, text: str) -> None:
        with tf.io.gfile.GFile(os.path.join(folder, name), "w") as file:
            file.write(text)


def _report(options: TrainerOptions, split: str, figures: Mapping[str, tuple[float, int]]) -> findings.Report:
    said = options.grad_cam
    names = [name for name in FAITHFULNESS if options.task.name == "segmentation" or name not in OF_MASKS]
    return findings.Report(
        split=split,
        method=said.method,
        layer=said.layer,
        steps=said.faithfulness_steps,
        decisions=max((count for _, count in figures.values()), default=0),
        figures=[
            findings.judge(name, figures.get(name), said.thresholds.get(name), FAITHFULNESS[name])
            for name in (names if said.faithfulness else [])
        ],
    )


def _lines(path: str) -> beam.PTransform:
    return beam.io.WriteToText(path, shard_name_template="")


def _taken(path: str) -> list[str]:
    """The lines of a file that is deleted."""
    with tf.io.gfile.GFile(path) as file:
        lines: list[str] = file.read().splitlines()
    tf.io.gfile.remove(path)
    return lines
