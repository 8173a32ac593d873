"""The pipeline: one node a paragraph, in the order in which the data flows."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import tensorflow_data_validation as tfdv
from tfx.components import Evaluator, Pusher, StatisticsGen, Trainer, Transform
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.proto import pusher_pb2, trainer_pb2, transform_pb2
from tfx.types import Channel, standard_artifacts

from components.baseline import LatestBlessedOtherModelStrategy
from components.example_validator.component import ImageExampleValidator
from components.grad_cam.component import GradCam
from components.image_example_gen import layout as layouts
from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.executor import Options as ExampleGenOptions
from components.schema_gen.component import ImageSchemaGen
from components.serving_validator.component import ServingValidator
from pipeline.config import PipelineConfig, slice_feature
from pipeline.evaluation import eval_config
from trainer_module import features


def create_pipeline(config: PipelineConfig, layout: layouts.Layout) -> tfx_pipeline.Pipeline:
    """Builds the DAG.

    Args:
      config: The whole configuration.
      layout: What was found in the data folder.
    """
    code = source_hash()
    all_options = config.trainer_options(layout.classes)
    # How many pictures are explained is GradCam's business alone: another number should not train again.
    trainer_options = all_options.model_dump_json(exclude={"grad_cam": {"per_class"}})
    example_gen_options = _example_gen_options(config, layout)
    evaluated = features.TEST if features.TEST in example_gen_options.splits() else features.VALIDATION
    slices = slice_names(config, layout)

    example_gen = ImageExampleGen(
        input_base=str(config.data_dir), layout=layout, options=example_gen_options, source_hash=code
    )

    # Picture bytes, file names and digests stay out: hashing them would cost more than everything else.
    counted = [features.IMAGE_FORMAT, features.IMAGE_HEIGHT, features.IMAGE_WIDTH, features.CLASS_TEXT]
    counted += [key(channel) for key in (features.mean_key, features.deviation_key) for channel in features.CHANNELS]
    counted += [*features.BUILT_IN_SLICES, *map(slice_feature, layout.slice_columns)]
    statistics_gen = StatisticsGen(
        examples=example_gen.outputs["examples"],
        stats_options=tfdv.StatsOptions(feature_allowlist=counted),
    )

    held_out = [split for split in example_gen_options.splits() if split != features.TRAIN]
    schema_gen = ImageSchemaGen(statistics=statistics_gen.outputs["statistics"], exclude_splits=held_out)

    example_validator = ImageExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"]
    )

    # Nothing is materialised: the graph is applied where pictures are read, and pixels on disk would be the largest
    # part of a run.
    transform = Transform(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        preprocessing_fn="trainer_module.hooks.transform.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=[features.TRAIN]),
        # Only what this node reads, so that another learning rate does not analyse every picture again.
        custom_config={
            "classes": list(layout.classes),
            "transform": config.transform.model_dump_json(),
            "source_hash": code,
        },
        materialize=False,
        disable_statistics=True,
    )
    transform.add_upstream_node(example_validator)

    trainer = Trainer(
        run_fn="trainer_module.hooks.trainer.run_fn",
        examples=example_gen.outputs["examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema_gen.outputs["schema"],
        train_args=trainer_pb2.TrainArgs(splits=[features.TRAIN]),
        eval_args=trainer_pb2.EvalArgs(splits=[features.VALIDATION]),
        custom_config={"options": trainer_options, "source_hash": code},
    )

    resolver = Resolver(
        strategy_class=LatestBlessedOtherModelStrategy,
        model=Channel(type=standard_artifacts.Model),
        model_blessing=Channel(type=standard_artifacts.ModelBlessing),
        candidate=trainer.outputs["model"],
    ).with_id("Resolver")

    evaluator = Evaluator(
        examples=example_gen.outputs["examples"],
        example_splits=[evaluated],
        model=trainer.outputs["model"],
        baseline_model=resolver.outputs["model"],
        eval_config=eval_config(config.evaluation, layout.classes, slices),
        schema=schema_gen.outputs["schema"],
    )

    serving_validator = ServingValidator(
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        examples=example_gen.outputs["examples"],
        options=trainer_options,
        split=evaluated,
        num_examples=config.serving.validation_examples,
        tolerance=config.serving.tolerance,
        source_hash=code,
    )

    grad_cam = GradCam(
        model_run=trainer.outputs["model_run"],
        examples=example_gen.outputs["examples"],
        options=all_options.model_dump_json(),
        split=evaluated,
        source_hash=code,
    )
    grad_cam.add_upstream_node(evaluator)

    pusher = Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=serving_validator.outputs["blessing"],
        push_destination=pusher_pb2.PushDestination(
            filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=str(config.model_base_path))
        ),
    )

    nodes = [
        example_gen,
        statistics_gen,
        schema_gen.with_id("SchemaGen"),
        example_validator.with_id("ExampleValidator"),
        transform,
        trainer,
        resolver,
        evaluator,
        serving_validator,
        grad_cam,
        pusher,
    ]
    return tfx_pipeline.Pipeline(
        pipeline_name=config.pipeline.name,
        pipeline_root=str(config.run_dir / "artifacts"),
        components=nodes,
        enable_cache=config.pipeline.cache,
        metadata_connection_config=metadata.sqlite_metadata_connection_config(str(metadata_path(config))),
        beam_pipeline_args=config.beam.arguments(),
    )


def metadata_path(config: PipelineConfig) -> Path:
    """ML Metadata's SQLite file of a local run."""
    return config.run_dir / "metadata.sqlite"


def slice_names(config: PipelineConfig, layout: layouts.Layout) -> tuple[str, ...]:
    """The configured slices, or all built-in ones and all metadata columns."""
    if config.evaluation.slices is not None:
        return config.evaluation.slices
    return layouts.BUILT_IN_SLICE_NAMES + layout.slice_columns


def source_hash() -> str:
    """Digest of the code that runs inside nodes: TFX's cache does not see code behind an import path."""
    digest = hashlib.sha256()
    for package in ("components", "trainer_module"):
        root = Path(str(resources.files(package)))
        for path in sorted([*root.rglob("*.py"), *root.rglob("*.j2")]):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _example_gen_options(config: PipelineConfig, layout: layouts.Layout) -> ExampleGenOptions:
    metadata_csv = layouts.find_metadata(config.data_dir, config.data.metadata_csv)
    return ExampleGenOptions(
        classes=layout.classes,
        split_folders=layout.split_folders,
        validation=config.data.splits.validation,
        test=config.data.splits.test,
        metadata_csv=str(metadata_csv.absolute()) if metadata_csv else None,
        metadata_columns=layout.metadata_columns,
        metadata_sha256=hashlib.sha256(metadata_csv.read_bytes()).hexdigest() if metadata_csv else "",
        fingerprint=layout.fingerprint,
        max_pixels=config.data.max_pixels,
        max_bad_fraction=config.data.max_bad_fraction,
    )
