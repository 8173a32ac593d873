"""The pipeline: one paragraph per node, in the order of the data flow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import tensorflow_data_validation as tfdv
from tfx.dsl.components.base import base_node
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.proto import trainer_pb2, transform_pb2
from tfx.types import Channel, standard_artifacts

import components
from components.baseline import LatestBlessedOtherModelStrategy, PreviousSpanStrategy
from components.data_audit.component import DataAudit
from components.evaluator.component import ImageEvaluator
from components.evaluator.options import LABEL_GROUP
from components.example_validator.component import ImageExampleValidator
from components.example_validator.drift import NUM_QUANTILES
from components.grad_cam.component import GradCam
from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.dataset import Dataset
from components.model_report.component import ModelReport
from components.monitoring_reference.component import MonitoringReference
from components.pusher.component import VersionPusher
from components.schema_gen.component import ImageSchemaGen
from components.schema_gen.curation import UNCOUNTED_LABELS
from components.schema_gen.options import SchemaOptions
from components.serving_validator.component import ServingValidator
from components.statistics_gen.component import ImageStatisticsGen
from components.trainer.component import ImageTrainer
from components.transform.component import ImageTransform
from components.tuner.component import TableTuner
from pipeline.config.loading import as_toml, with_absolute_paths
from pipeline.config.sections import PipelineConfig, slice_feature
from pipeline.eval_config import batch_size, eval_config
from pipeline.execution.dataset import example_gen_options
from pipeline.execution.dataset_identity import DatasetIdentity
from pipeline.nodes import TUNER
from trainer_module import features, tasks
from trainer_module.options import ExplanationOptions, ServedExplanationOptions


def previous_span(statistics: Channel) -> base_node.BaseNode:
    """Finds the previous span in ML Metadata: outputs `statistics` and `schema`."""
    return Resolver(
        strategy_class=PreviousSpanStrategy,
        statistics=Channel(type=standard_artifacts.ExampleStatistics),
        schema=Channel(type=standard_artifacts.Schema),
        anomalies=Channel(type=standard_artifacts.ExampleAnomalies),
        current=statistics,
    )


def baseline_model(candidate: Channel) -> base_node.BaseNode:
    """Finds the baseline model in ML Metadata: output `model`."""
    return Resolver(
        strategy_class=LatestBlessedOtherModelStrategy,
        model=Channel(type=standard_artifacts.Model),
        model_blessing=Channel(type=standard_artifacts.ModelBlessing),
        infra_blessing=Channel(type=standard_artifacts.InfraBlessing),
        explanations=Channel(type=components.GradCamExplanations),
        candidate=candidate,
    )


def create_pipeline(
    config: PipelineConfig,
    dataset: Dataset,
    *,
    find_previous_span: Callable[[Channel], base_node.BaseNode] = previous_span,
    find_baseline_model: Callable[[Channel], base_node.BaseNode] = baseline_model,
    metadata_path: Path | None = None,
) -> tfx_pipeline.Pipeline:
    """Builds the DAG.

    Args:
      config: The whole configuration.
      dataset: The inspected dataset.
      find_previous_span: Creates the node that finds the previous span; runners without ML Metadata have their own.
      find_baseline_model: The same for the baseline model.
      metadata_path: The metadata store of a local run; TFX creates its folder at once. Clusters have their own store.
    """
    code = source_hash()
    all_options = config.trainer_options(dataset.classes, dataset.ignore_id, dataset.is_grey)
    # Only GradCam reads which images are explained: a change must not start another training.
    served = set(ServedExplanationOptions.model_fields)
    unserved = set(ExplanationOptions.model_fields) - served
    # Nodes complete their options with the classes of the examples (`components.classes`).
    trainer_options = all_options.model_dump_json(exclude={"classes": True, "grad_cam": unserved})
    written_splits = config.data.written_splits(dataset.own_splits)
    evaluated = features.TEST if features.TEST in written_splits else features.VALIDATION
    slices = config.evaluation.evaluated_slices(dataset.built_in_slices + dataset.slice_columns)

    example_gen = ImageExampleGen(
        input_base=config.data_location, options=example_gen_options(config, dataset), source_hash=code
    )

    # Without image bytes, file names and digests: hashing them would take longer than everything else.
    statistics_features = [features.IMAGE_FORMAT, features.IMAGE_HEIGHT, features.IMAGE_WIDTH]
    statistics_features += [name for name in dataset.label_features if name not in UNCOUNTED_LABELS]
    statistics_features += [
        key(channel) for key in (features.mean_key, features.deviation_key) for channel in features.CHANNELS
    ]
    statistics_features += [slice_feature(name) for name in dataset.built_in_slices + dataset.slice_columns]
    statistics_gen = ImageStatisticsGen(
        examples=example_gen.outputs["examples"],
        stats_options=tfdv.StatsOptions(
            feature_allowlist=statistics_features,
            num_quantiles_histogram_buckets=NUM_QUANTILES,
            # The frequency of every class; 1,000 is TFDV's default.
            num_rank_histogram_buckets=max(1000, len(dataset.classes)),
        ),
    )

    other_splits = [split for split in written_splits if split != features.TRAIN]
    schema_gen = ImageSchemaGen(
        statistics=statistics_gen.outputs["statistics"],
        exclude_splits=other_splits,
        options=SchemaOptions(
            domain_margin=config.validation.domain_margin,
            label_features=dataset.label_features,
            single_valued_features=tasks.get(config.task.name).single_valued_features,
        ),
    )

    previous = find_previous_span(statistics_gen.outputs["statistics"]).with_id("PreviousSpan")

    example_validator = ImageExampleValidator(
        statistics=statistics_gen.outputs["statistics"],
        schema=schema_gen.outputs["schema"],
        previous_statistics=previous.outputs["statistics"],
        previous_schema=previous.outputs["schema"],
        options=config.validation,
        source_hash=code,
    )

    # Nothing is materialised: readers of the images apply the graph, and pixels on disk would be the largest artifact.
    transform = ImageTransform(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        preprocessing_fn="trainer_module.hooks.transform.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=[features.TRAIN]),
        # Only the settings that this node reads: another learning rate must not analyse all images again.
        custom_config={
            "transform": all_options.transform.model_dump_json(),
            "task": config.task.name,
            "source_hash": code,
        },
        materialize=False,
        disable_statistics=True,
        disable_analyzer_cache=True,
    )
    transform.add_upstream_node(example_validator)

    tuner = None
    if config.tuner.enabled:
        tuner = TableTuner(
            tuner_fn="trainer_module.hooks.tuner.tuner_fn",
            examples=example_gen.outputs["examples"],
            transform_graph=transform.outputs["transform_graph"],
            train_args=trainer_pb2.TrainArgs(splits=[features.TRAIN]),
            eval_args=trainer_pb2.EvalArgs(splits=[features.VALIDATION]),
            custom_config={
                "options": all_options.model_dump_json(exclude={"classes", "grad_cam", "test_time_augmentation"}),
                "tuner": config.tuner.model_dump_json(),
                "source_hash": code,
            },
        ).with_id(TUNER)

    # The values of Tuner replace settings of `search_space.SECTIONS`. Nodes after Trainer read those beside the model.
    trainer = ImageTrainer(
        run_fn="trainer_module.hooks.trainer.run_fn",
        examples=example_gen.outputs["examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema_gen.outputs["schema"],
        hyperparameters=tuner and tuner.outputs["best_hyperparameters"],
        train_args=trainer_pb2.TrainArgs(splits=[features.TRAIN]),
        eval_args=trainer_pb2.EvalArgs(splits=[features.VALIDATION]),
        custom_config={
            "options": trainer_options,
            "checkpoint_dir": str(config.run_dir / "checkpoints"),
            "source_hash": code,
        },
    )

    resolver = find_baseline_model(trainer.outputs["model"]).with_id("Resolver")

    evaluation = config.evaluation.with_task_defaults(config.task.name)
    evaluator = ImageEvaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=resolver.outputs["model"],
        schema=schema_gen.outputs["schema"],
        statistics=statistics_gen.outputs["statistics"],
        split=evaluated,
        eval_config=eval_config(
            evaluation,
            config.task.name,
            dataset.classes,
            slices,
            ignore_id=all_options.ignore_id,
        ),
        batch_size=batch_size(config.transform.image_size),
        # Without corruptions, another size does not evaluate again for its own sake.
        image_size=min(config.transform.image_size) if evaluation.corruptions else 0,
        task=config.task.name,
        options=evaluation,
        source_hash=code,
    )

    serving_validator = ServingValidator(
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        examples=example_gen.outputs["examples"],
        options=trainer_options,
        split=evaluated,
        limits=config.serving.limits(),
        source_hash=code,
    )

    explained_slices = config.grad_cam.slices
    if explained_slices is None:
        explained_slices = tuple(name for name in slices if isinstance(name, str) and name != LABEL_GROUP)
    grad_cam = GradCam(
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        examples=example_gen.outputs["examples"],
        options=all_options.model_dump_json(exclude={"classes"}),
        split=evaluated,
        slices=explained_slices,
        source_hash=code,
    )
    grad_cam.add_upstream_node(evaluator)

    pusher = VersionPusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=serving_validator.outputs["blessing"],
        explanations=grad_cam.outputs["explanations"],
        base_directory=config.model_base_path,
        keep_versions=config.serving.keep_versions,
        dataset=DatasetIdentity.of(config, dataset).provenance(),
    )

    monitoring_reference = None
    if config.monitoring.enabled:
        # No gate: no node waits for it.
        monitoring_reference = MonitoringReference(
            examples=example_gen.outputs["examples"],
            model=trainer.outputs["model"],
            model_run=trainer.outputs["model_run"],
            pushed_model=pusher.outputs["pushed_model"],
            split=evaluated,
            max_images=config.monitoring.reference_images,
            source_hash=code,
        )

    data_audit = None
    if config.audit.enabled:
        # No gate: nothing but the report waits for it.
        data_audit = DataAudit(
            examples=example_gen.outputs["examples"],
            quarantine=example_gen.outputs["quarantine"],
            model=trainer.outputs["model"],
            model_run=trainer.outputs["model_run"],
            source_hash=code,
        )

    # After Pusher, so that the report contains the final result, also for a refused model.
    model_report = ModelReport(
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        examples=example_gen.outputs["examples"],
        statistics=statistics_gen.outputs["statistics"],
        quarantine=example_gen.outputs["quarantine"],
        anomalies=example_validator.outputs["anomalies"],
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        infra_blessing=serving_validator.outputs["blessing"],
        pushed_model=pusher.outputs["pushed_model"],
        baseline_model=resolver.outputs["model"],
        explanations=grad_cam.outputs["explanations"],
        tuner_results=tuner and tuner.outputs["tuner_results"],
        audit=data_audit and data_audit.outputs["audit"],
        name=config.model_name,
        configuration=as_toml(with_absolute_paths(config)),
        data_fingerprint=dataset.fingerprint,
        source_hash=source_hash(with_report=True),
    )

    nodes = [
        example_gen,
        statistics_gen.with_id("StatisticsGen"),
        schema_gen.with_id("SchemaGen"),
        previous,
        example_validator.with_id("ExampleValidator"),
        transform.with_id("Transform"),
        *([tuner] if tuner else []),
        trainer.with_id("Trainer"),
        resolver,
        evaluator.with_id("Evaluator"),
        serving_validator,
        grad_cam,
        pusher.with_id("Pusher"),
        *([monitoring_reference] if monitoring_reference else []),
        *([data_audit] if data_audit else []),
        model_report,
    ]
    return tfx_pipeline.Pipeline(
        pipeline_name=config.pipeline.name,
        pipeline_root=config.artifacts_location,
        components=nodes,
        enable_cache=config.pipeline.cache,
        metadata_connection_config=(
            metadata.sqlite_metadata_connection_config(str(metadata_path)) if metadata_path else None
        ),
        beam_pipeline_args=config.beam.arguments(),
    )


def source_hash(*, with_report: bool = False) -> str:
    """Digest of the code that runs inside nodes: TFX's cache does not detect changes of code behind an import path.

    Args:
      with_report: Whether to include the code of ModelReport. No other node runs it, and a change must not start
        another training.
    """
    digest = hashlib.sha256()
    for package in ("components", "trainer_module"):
        root = Path(str(resources.files(package)))
        for path in sorted([*root.rglob("*.py"), *root.rglob("*.j2")]):
            name = path.relative_to(root).as_posix()
            # The nodes of Kubeflow Pipelines are never cached there, and do not run here.
            if not name.startswith("cluster/") and (with_report or not name.startswith("model_report/")):
                digest.update(name.encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
