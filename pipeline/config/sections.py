"""The sections of the configuration: frozen, and validated before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from components.data_audit.options import AuditOptions
from components.evaluator.options import EvaluationOptions, check_bounds
from components.example_validator.options import DriftOptions
from components.image_example_gen.options import DataOptions
from components.monitoring_reference.options import MonitoringOptions
from components.serving_validator.options import ServingLimits
from pipeline.config import tuner_checks
from pipeline.execution.beam_options import BeamSection
from pipeline.kubeflow.options import KubeflowOptions
from trainer_module import features, tasks
from trainer_module.locations import absolute, is_complete, join
from trainer_module.models import scratch_cnn
from trainer_module.options import (
    AugmentationOptions,
    ExplanationOptions,
    FineTuningOptions,
    ModelSection,
    TaskSection,
    TestTimeAugmentationOptions,
    TrainerOptions,
    TrainingOptions,
    TransformOptions,
    check_sections,
    default_task,
)
from trainer_module.search_space import TunerOptions
from trainer_module.section import Section

# Of ML Metadata, in the folder of a pipeline.
METADATA_FILE = "metadata.sqlite"


class PipelineSection(Section):
    """`[pipeline]`: the name of the pipeline and its folders."""

    name: str = Field(
        default="images",
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
        description="Name: lower-case letters, digits and hyphens; also the folder below root.",
    )
    root: Path = Field(
        default=Path("runs"),
        description="Folder of all pipelines: metadata, logs, and by default artifacts and served versions.",
    )
    artifacts: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of the artifacts, accessible from all machines of Beam: a volume, or gs://…, with one "
        "folder per pipeline. Default: artifacts/ in the folder of the pipeline.",
    )
    cache: bool = Field(
        default=True, description="Reuse the result of a node if its inputs, settings and code are unchanged."
    )

    @field_validator("artifacts")
    @classmethod
    def _complete_location(cls, value: str | None) -> str | None:
        if value is not None and not is_complete(value):
            raise ValueError(f"`{value}` is not a storage URI; use gs://bucket/folder")
        return value


class DataSection(DataOptions):
    """`[data]`: the dataset."""

    source: Literal["folder", "digits", "digit_scenes", "digit_boxes", "digit_sets"] = Field(
        default="folder",
        description="`digits` generates scikit-learn's handwritten digits, `digit_scenes` scenes of digits with masks; "
        "`digit_boxes` the same scenes with boxes; `digit_sets` images of up to four digits, with the set of their "
        "classes; none of them needs a path.",
    )
    path: str | None = Field(
        default=None,
        description="Folder of the images, a manifest, or a path with {SPAN}; local, or gs:// and the like.",
    )

    def options(self, task: str | None = None) -> DataOptions:
        """The settings of ImageExampleGen, with absolute local paths.

        Args:
          task: Name of the task, which decides how many classes an image may have if nothing else does.
        """
        values = self.model_dump(include=set(DataOptions.model_fields))
        if task is not None and self.labels_per_image is None and tasks.get(task).takes_label_sets:
            values["labels_per_image"] = "any"
        for key in ("manifest", "metadata_csv", "corrections"):
            values[key] = values[key] and absolute(values[key])
        return DataOptions.model_validate(values)


class ServingSection(ServingLimits):
    """`[serving]`: the served model, and the limits that are checked before a push."""

    model_name: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_.-]+$", description="Name of the served model; default: pipeline.name."
    )
    base_directory: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of served models, or gs://… . Default: serving/ in the folder of the pipeline.",
    )
    keep_versions: int | None = Field(
        default=None,
        ge=2,
        le=1_000_000,
        description="Number of versions that a push keeps; default: all.",
    )

    def limits(self) -> ServingLimits:
        """The settings of ServingValidator."""
        return ServingLimits.model_validate(self.model_dump(include=set(ServingLimits.model_fields)))


class PipelineConfig(Section):
    """The whole configuration of a pipeline."""

    pipeline: PipelineSection = PipelineSection()
    data: DataSection = DataSection()
    validation: DriftOptions = DriftOptions()
    transform: TransformOptions = TransformOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    model: ModelSection = scratch_cnn.Options()
    training: TrainingOptions = TrainingOptions()
    task: TaskSection = Field(default_factory=default_task)
    fine_tuning: FineTuningOptions = FineTuningOptions()
    test_time_augmentation: TestTimeAugmentationOptions = TestTimeAugmentationOptions()
    tuner: TunerOptions = TunerOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    grad_cam: ExplanationOptions = ExplanationOptions()
    audit: AuditOptions = AuditOptions()
    monitoring: MonitoringOptions = MonitoringOptions()
    serving: ServingSection = ServingSection()
    beam: BeamSection = BeamSection()
    kubeflow: KubeflowOptions = KubeflowOptions()

    @model_validator(mode="after")
    def _image_large_enough(self) -> PipelineConfig:
        smallest = self.model.smallest_image()
        if min(self.transform.image_size) < smallest:
            height, width = self.transform.image_size
            raise ValueError(
                f"transform.image_size is {height if height == width else [height, width]}, but the model requires at "
                f"least {smallest}: increase it (or use fewer blocks in scratch_cnn)"
            )
        return self

    @model_validator(mode="after")
    def _sections_fit_together(self) -> PipelineConfig:
        check_sections(self)
        check_bounds(self.evaluation.with_task_defaults(self.task.name), self.task.name)
        return self

    @model_validator(mode="after")
    def _dataset_is_given(self, info: ValidationInfo) -> PipelineConfig:
        required = (info.context or {}).get("needs_data", True)
        if required and self.data.source == "folder" and self.data.path is None:
            raise ValueError("data.path is missing: set it to the folder of the images, or give --data DIR")
        return self

    @model_validator(mode="after")
    def _dataflow_reads_buckets(self) -> PipelineConfig:
        if self.beam.runner != "dataflow":
            return self
        for key, location in (("data.path", self.data.path), ("pipeline.artifacts", self.pipeline.artifacts)):
            if location is not None and not location.startswith("gs://"):
                raise ValueError(f'beam.runner = "dataflow" reads only gs://, and {key} is {location}')
        if self.pipeline.artifacts is None:
            raise ValueError('beam.runner = "dataflow" requires pipeline.artifacts, a gs:// folder')
        if self.data.source != "folder" and self.data.path is None:
            raise ValueError(
                f'beam.runner = "dataflow" reads only gs://, and data.source = "{self.data.source}" writes to a local '
                "folder: set data.path to a gs:// folder of images"
            )
        return self

    @model_validator(mode="after")
    def _tuner_can_search(self) -> PipelineConfig:
        if self.tuner.enabled:
            tuner_checks.check(self)
        return self

    @property
    def data_options(self) -> DataOptions:
        """The settings of ImageExampleGen."""
        return self.data.options(self.task.name)

    @property
    def run_dir(self) -> Path:
        """Folder of the pipeline: metadata, logs, generated data, and by default artifacts and served versions."""
        return (self.pipeline.root.expanduser() / self.pipeline.name).absolute()

    @property
    def metadata_path(self) -> Path:
        """SQLite file of ML Metadata, with all runs."""
        return self.run_dir / METADATA_FILE

    @property
    def log_path(self) -> Path:
        """Log of the last run."""
        return self.run_dir / "run.log"

    @property
    def report_path(self) -> Path:
        """Report of the last run that reached ModelReport."""
        return self.run_dir / "report.html"

    @property
    def request_log(self) -> Path:
        """Prefix of the request log that `monitor` and `watch` read by default."""
        return self.run_dir / "requests" / self.model_name

    @property
    def monitor_dir(self) -> Path:
        """Folder in which `monitor` stores its results, and `watch` looks for an alarm, by default."""
        return self.run_dir / "monitor"

    @property
    def artifacts_location(self) -> str:
        """Folder of the artifacts."""
        if self.pipeline.artifacts is None:
            return str(self.run_dir / "artifacts")
        return join(absolute(self.pipeline.artifacts), self.pipeline.name)

    @property
    def data_location(self) -> str:
        """Location of the dataset; a generated one is in the folder of the pipeline."""
        if self.data.path is None:
            return str(self.run_dir / "data" / self.data.source)
        return absolute(self.data.path)

    @property
    def model_name(self) -> str:
        """Name of the served model."""
        return self.serving.model_name or self.pipeline.name

    @property
    def model_base_path(self) -> str:
        """Folder of numbered versions that a model server reads."""
        base = absolute(self.serving.base_directory or str(self.run_dir / "serving"))
        return f"{base.rstrip('/')}/{self.model_name}"

    def trainer_options(
        self, classes: tuple[str, ...], ignore_id: int | None = None, is_grey: bool = False
    ) -> TrainerOptions:
        """The settings of Transform and Trainer.

        Args:
          classes: Class names of the dataset.
          ignore_id: Ignored id of the dataset's masks; `data.ignore_id` has precedence.
          is_grey: Whether the dataset has no colours; decides about `transform.channels = "auto"`.
        """
        return TrainerOptions(
            classes=classes,
            ignore_id=ignore_id if self.data.ignore_id is None else self.data.ignore_id,
            transform=self.transform.with_channels(1 if is_grey and not self.model.has_backbone() else 3),
            augmentation=self.augmentation,
            model=self.model,
            training=self.training,
            task=self.task,
            fine_tuning=self.fine_tuning,
            test_time_augmentation=self.test_time_augmentation,
            grad_cam=self.grad_cam,
        )


def slice_feature(name: str) -> str:
    """Key of a slice in a raw example: `brightness` → `slice/brightness`."""
    return features.SLICE_PREFIX + name
