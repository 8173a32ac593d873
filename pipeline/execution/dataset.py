"""The dataset of a run: generate it if necessary, inspect it, check the configuration against it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from components.evaluator.options import CORRUPTION, LABEL_GROUP, SEVERITY, SLICE_SETTINGS, may_name
from components.image_example_gen import files, labels, layouts, limits
from components.image_example_gen.dataset import Dataset, inspect_dataset, remember
from components.image_example_gen.errors import DatasetError, UnnamedClassesError
from components.image_example_gen.listing_tasks import Engine, ListingPlace
from components.image_example_gen.options import ExampleGenOptions
from components.image_example_gen.shards import WorkFolder
from components.image_example_gen.stored_entries import TemporaryFolder
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.execution.beam_options import ENGINES
from pipeline.nodes import NODE_IDS
from trainer_module import tasks
from trainer_module.error_text import did_you_mean
from trainer_module.locations import join


def prepare(config: PipelineConfig) -> Dataset:
    """Generates the dataset if necessary, inspects it, and checks the configuration against it.

    ImageExampleGen in this process does not list it again.

    Raises:
      DatasetError: If the dataset cannot be used for training.
      ConfigError: If the configuration names classes or slices that the dataset does not have.
    """
    if config.data.source != "folder" and config.data.path is None:
        from pipeline.execution import generated_datasets

        generated_datasets.WRITERS[config.data.source](Path(config.data_location))
    try:
        dataset = inspect_dataset(config.data_location, config.data_options, _engine(config))
    except UnnamedClassesError as error:
        # Otherwise the run with names would fail again.
        from_boxes = config.data_options.labels_from == "boxes"
        label_features = labels.MULTI_LABEL if from_boxes else error.label_features
        advice = _task_advice(config, config.data_location, label_features)
        raise DatasetError(f"{error}\n{advice}" if advice else str(error)) from None
    if not layouts.get(dataset.layout).entries_are_containers:
        # ImageExampleGen would come to the same result, but only after it has read all other files.
        total = len(dataset.entries) + len(dataset.refused)
        limits.refuse_bad_files(dataset.refused, total, config.data.max_bad_fraction)
    check_names(config, dataset)
    if config.transform.channels == "auto" and not config.model.has_backbone():
        from components.image_example_gen import probe  # imports TensorFlow

        dataset = replace(dataset, is_grey=probe.has_only_grey_images(dataset, example_gen_options(config, dataset)))
    return remember(config.data_location, config.data_options, dataset)


def _engine(config: PipelineConfig) -> Engine | None:
    """Returns what starts the engine of the data nodes for the listing, if they run on one."""
    if config.beam.runner not in ENGINES:
        return None

    def start() -> ListingPlace:
        import apache_beam as beam

        from components.image_example_gen.beam_exchange import BeamExchange
        from pipeline.execution import node_runner

        node_runner.let_workers_find_python()
        temporary = TemporaryFolder(join(config.artifacts_location, f".listing-{uuid.uuid4().hex}"))
        folder = WorkFolder(temporary.location)
        exchange = BeamExchange(lambda: beam.Pipeline(argv=config.beam.arguments()), folder)
        return ListingPlace(exchange, folder, temporary)

    return start


def all_spans(config: PipelineConfig) -> Dataset:
    """Lists all spans of a dataset, whichever of them a run reads.

    Raises:
      DatasetError: If the dataset cannot be used for training.
    """
    return inspect_dataset(config.data_location, config.data_options.model_copy(update={"spans": "all"}))


def example_gen_options(config: PipelineConfig, dataset: Dataset) -> ExampleGenOptions:
    """The options of ImageExampleGen."""
    return ExampleGenOptions(
        data=config.data_options,
        classes=dataset.classes,
        ignore_id=dataset.ignore_id,
        colors=dataset.colors,
        ignored_colors=dataset.ignored_colors,
        columns=dataset.columns,
        label_features=dataset.label_features,
        fingerprint=dataset.fingerprint,
    )


def check_names(config: PipelineConfig, dataset: Dataset) -> None:
    """Checks the classes and slices that `[evaluation]` and `[grad_cam]` name.

    Raises:
      ConfigError: If the dataset does not have such a class or slice.
    """
    evaluation = config.evaluation
    if evaluation.label_groups and LABEL_GROUP in dataset.columns:
        raise ConfigError(
            f"The table has a column `{LABEL_GROUP}`, which is the name of the slices of evaluation.label_groups. "
            "Rename the column."
        )
    if evaluation.corruptions and (taken := {CORRUPTION, SEVERITY}.intersection(dataset.columns)):
        raise ConfigError(
            f"The table has a column `{min(taken)}`, which is the name of slices of evaluation.corruptions. "
            "Rename the column."
        )
    groups = (LABEL_GROUP,) if evaluation.label_groups else ()
    available = (*dataset.built_in_slices, *dataset.columns, *groups)
    measured = (
        *evaluation.evaluated_slices(dataset.built_in_slices + dataset.slice_columns),
        *evaluation.corruption_slices(),
    )
    families = [entry if isinstance(entry, str) else ", ".join(entry) for entry in measured]

    def check(rule: str, kind: str, name: str, known: Sequence[str]) -> None:
        if name not in known:
            suggestion = did_you_mean(name, known) or f". The dataset has: {', '.join(known)}."
            raise ConfigError(f"evaluation.{rule}: unknown {kind} `{name}`{suggestion}")

    for entry in evaluation.slices or ():
        for name in (entry,) if isinstance(entry, str) else entry:
            check("slices", "slice", name, available)
    for group, members in evaluation.label_groups.items():
        for name in members:
            check(f"label_groups.{group}", "class", name, dataset.classes)
    _check_explanations(config, dataset)
    for rule, bounds in evaluation.named_bounds().items():
        for name in {name for bound in bounds.values() if isinstance(bound, dict) for name in bound}:
            if rule not in SLICE_SETTINGS:
                check(rule, "class", name, dataset.classes)
            elif not may_name(name, measured):
                raise ConfigError(
                    f"evaluation.{rule}: `{name}` is not an evaluated slice{did_you_mean(name, families) or '.'} "
                    f"Evaluated slices: {', '.join(families)}; evaluation.slices sets them, pairs included."
                )


def _check_explanations(config: PipelineConfig, dataset: Dataset) -> None:
    slices = (*dataset.built_in_slices, *dataset.columns)
    for name in config.grad_cam.slices or ():
        if name not in slices:
            suggestion = did_you_mean(name, slices) or f". The dataset has: {', '.join(slices)}."
            raise ConfigError(f"grad_cam.slices: unknown slice `{name}`{suggestion}")
    target = config.grad_cam.target
    targets = ("predicted", "true", *dataset.classes)
    if target not in targets:
        suggestion = did_you_mean(target, targets) or f". The dataset has: {', '.join(dataset.classes)}."
        raise ConfigError(f"grad_cam.target: unknown class `{target}`{suggestion}")


def refuse_other_task(config: PipelineConfig, dataset: Dataset, to_node: str) -> None:
    """Refuses a model that the data cannot train, and images with more boxes than Transform has room for.

    Raises:
      ConfigError: With the settings that fit the dataset.
    """
    if NODE_IDS.index(to_node) < NODE_IDS.index("Transform"):
        return
    if advice := _task_advice(config, dataset.root, dataset.label_features):
        raise ConfigError(advice)
    _refuse_long_labels(config, dataset)


def _task_advice(config: PipelineConfig, root: str, label_features: tuple[str, ...]) -> str:
    """Returns the task for a label; empty if it is the configured one."""
    task = tasks.get(config.task.name)
    if _can_train(task, label_features):
        return ""
    fitting = [name for name in tasks.names() if _can_train(tasks.get(name), label_features)]
    settings = [f"--set task.name={name}" for name in fitting]
    if task.takes_label_sets and labels.has_boxes(label_features):
        settings.append("--set data.labels_from=boxes")
    presets = [f"the preset `{preset}`" for name in fitting for preset in loading.presets_for(name)]
    names = " or ".join([*presets, *settings])
    use = f"Use {names}; or use" if settings else "No task is trained on them. Use"
    return (
        f'task.name = "{task.name}" requires {task.label_noun}, and {root} has {labels.noun(label_features)}. {use} '
        "--to ExampleValidator, which only reads, splits and checks these data."
    )


def _can_train(task: tasks.TaskSpec, label_features: tuple[str, ...]) -> bool:
    """Whether examples have the labels of a task, and not more classes than it can learn."""
    has_labels = set(label_features).issuperset(task.label_features)
    return has_labels and (task.takes_label_sets or not labels.has_sets(label_features))


def _refuse_long_labels(config: PipelineConfig, dataset: Dataset) -> None:
    limit = tasks.get(config.task.name).label_limit
    if limit is None:
        return
    feature, key = limit
    most = getattr(config.transform, key)
    counts = ((len(dict(entry.label).get(feature, ())), entry.path) for entry in dataset.entries)
    longer = sorted(((count, path) for count, path in counts if count > most), reverse=True)
    if longer:
        shown = ", ".join(f"{files.readable(path)} ({count:,})" for count, path in longer[:2])
        raise ConfigError(
            f"transform.{key} = {most:,}, and {len(longer):,} images of {dataset.root} have more boxes: {shown}. Use "
            f"--set transform.{key}={longer[0][0]}, or move these images elsewhere."
        )
