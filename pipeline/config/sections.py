"""The configuration: frozen, complete, checked before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from components.evaluator.options import EvaluationOptions
from components.evaluator.options import check as check_evaluation
from components.example_validator.options import DriftOptions
from components.image_example_gen.options import DataOptions
from components.serving_validator.options import ServingLimits
from pipeline.config import tuner_checks
from pipeline.execution.beam_options import BeamSection
from pipeline.kubeflow.options import KubeflowOptions
from trainer_module import features
from trainer_module.locations import absolute, is_complete, join
from trainer_module.models import scratch_cnn
from trainer_module.options import (
    AugmentationOptions,
    ExplanationOptions,
    FineTuningOptions,
    TrainerOptions,
    TrainingOptions,
    TransformOptions,
    check_explanations,
    check_fine_tuning,
    check_labels,
    check_model,
    parse_model,
    parse_task,
)
from trainer_module.search_space import TunerOptions
from trainer_module.section import ModelOptions, Section, TaskOptions


class PipelineSection(Section):
    """`[pipeline]`: what the run is called and where it keeps its things."""

    name: str = Field(
        default="images",
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
        description="Small letters, digits and hyphens; the run's folder below root.",
    )
    root: Path = Field(
        default=Path("runs"),
        description="Folder of all runs; metadata, logs and, unless said otherwise, artifacts and served versions go "
        "below it.",
    )
    artifacts: str | None = Field(
        default=None,
        min_length=1,
        description="Folder for what the nodes hand on, that all of Beam's machines see: a volume, or gs://…, a folder "
        "for each pipeline. Default: artifacts/ in the run's folder.",
    )
    cache: bool = Field(default=True, description="Reuse a node's earlier result when nothing it reads has changed.")

    @field_validator("artifacts")
    @classmethod
    def _store_has_a_name(cls, value: str | None) -> str | None:
        if value is not None and not is_complete(value):
            raise ValueError(f"`{value}` names no store; write it as gs://bucket/folder")
        return value


class DataSection(DataOptions):
    """`[data]`: the pictures."""

    source: Literal["folder", "digits", "digit_scenes"] = Field(
        default="folder",
        description="`digits` writes scikit-learn's handwritten digits, `digit_scenes` scenes of them with masks; both "
        "need no path.",
    )
    path: str | None = Field(
        default=None,
        description="Folder of the pictures, a manifest, or a path with {SPAN}; local, or gs:// and the like.",
    )

    def options(self) -> DataOptions:
        """The part that crosses into ImageExampleGen; local paths are made absolute."""
        said = self.model_dump(include=set(DataOptions.model_fields))
        for key in ("manifest", "metadata_csv"):
            said[key] = said[key] and absolute(said[key])
        return DataOptions.model_validate(said)


class ServingSection(ServingLimits):
    """`[serving]`: where a blessed model goes, and what is checked before."""

    model_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$", description="Default: pipeline.name.")
    base_directory: str | None = Field(
        default=None, min_length=1, description="A folder, or gs://… . Default: serving/ in the run's folder."
    )
    keep_versions: int | None = Field(
        default=None,
        ge=2,
        le=1_000_000,
        description="How many versions stay in the model's folder when a new one comes; all when absent.",
    )

    def limits(self) -> ServingLimits:
        """The part that crosses into ServingValidator."""
        return ServingLimits.model_validate(self.model_dump(include=set(ServingLimits.model_fields)))


class PipelineConfig(Section):
    """The whole configuration of a run."""

    pipeline: PipelineSection = PipelineSection()
    data: DataSection = DataSection()
    validation: DriftOptions = DriftOptions()
    transform: TransformOptions = TransformOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    model: SerializeAsAny[ModelOptions] = scratch_cnn.Options()
    training: TrainingOptions = TrainingOptions()
    task: SerializeAsAny[TaskOptions] = Field(default_factory=lambda: parse_task({}))
    fine_tuning: FineTuningOptions = FineTuningOptions()
    tuner: TunerOptions = TunerOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    grad_cam: ExplanationOptions = ExplanationOptions()
    serving: ServingSection = ServingSection()
    beam: BeamSection = BeamSection()
    kubeflow: KubeflowOptions = KubeflowOptions()

    @field_validator("model", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return parse_model(value)

    @field_validator("task", mode="before")
    @classmethod
    def _task_by_name(cls, value: Any) -> Any:
        return parse_task(value)

    @model_validator(mode="after")
    def _picture_large_enough(self) -> PipelineConfig:
        smallest = self.model.smallest_image()
        if self.transform.image_size < smallest:
            raise ValueError(
                f"transform.image_size is {self.transform.image_size}, but this model halves the picture until "
                f"nothing is left of one below {smallest}; enlarge it (or give scratch_cnn fewer blocks)"
            )
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> PipelineConfig:
        check_model(self.model, self.transform)
        check_fine_tuning(self.model, self.training, self.fine_tuning)
        check_labels(self.task, self.augmentation, self.training)
        check_explanations(self.task, self.grad_cam)
        check_evaluation(self.evaluation.of_task(self.task.name), self.task.name)
        return self

    @model_validator(mode="after")
    def _data_is_somewhere(self, info: ValidationInfo) -> PipelineConfig:
        needed = (info.context or {}).get("needs_data", True)
        if needed and self.data.source == "folder" and self.data.path is None:
            raise ValueError("data.path is missing: name the folder of your pictures there, or give --data DIR")
        return self

    @model_validator(mode="after")
    def _workers_see_the_files(self) -> PipelineConfig:
        if self.beam.runner != "dataflow":
            return self
        for key, location in (("data.path", self.data.path), ("pipeline.artifacts", self.pipeline.artifacts)):
            if location is not None and not location.startswith("gs://"):
                raise ValueError(f'beam.runner = "dataflow" reads gs:// alone, and {key} is {location}')
        if self.pipeline.artifacts is None:
            raise ValueError('beam.runner = "dataflow" needs pipeline.artifacts, a folder at gs://')
        if self.data.source != "folder" and self.data.path is None:
            raise ValueError(
                f'beam.runner = "dataflow" reads gs:// alone, and data.source = "{self.data.source}" writes to a '
                "folder here: say a gs:// folder of pictures in data.path"
            )
        return self

    @model_validator(mode="after")
    def _tuner_can_search(self) -> PipelineConfig:
        if self.tuner.enabled:
            tuner_checks.check(self)
        return self

    @property
    def run_dir(self) -> Path:
        """What this pipeline keeps: metadata, logs, generated data and, if nothing is said, artifacts and versions."""
        return (self.pipeline.root.expanduser() / self.pipeline.name).absolute()

    @property
    def metadata_path(self) -> Path:
        """ML Metadata's SQLite file: the record of all runs."""
        return self.run_dir / "metadata.sqlite"

    @property
    def log_path(self) -> Path:
        """Where the last run's log goes."""
        return self.run_dir / "run.log"

    @property
    def report_path(self) -> Path:
        """Where the report of the last run lies that came as far as ModelReport."""
        return self.run_dir / "report.html"

    @property
    def artifacts_location(self) -> str:
        """Where the nodes' results lie."""
        if self.pipeline.artifacts is None:
            return str(self.run_dir / "artifacts")
        return join(absolute(self.pipeline.artifacts), self.pipeline.name)

    @property
    def data_location(self) -> str:
        """Where the pictures are; those of a generated source lie in the run's folder."""
        if self.data.path is None:
            return str(self.run_dir / "data" / self.data.source)
        return absolute(self.data.path)

    @property
    def model_name(self) -> str:
        """The name under which the model is served."""
        return self.serving.model_name or self.pipeline.name

    @property
    def model_base_path(self) -> str:
        """The folder of numbered versions that a model server watches."""
        base = absolute(self.serving.base_directory or str(self.run_dir / "serving"))
        return f"{base.rstrip('/')}/{self.model_name}"

    def trainer_options(self, classes: tuple[str, ...], ignore_id: int | None = None) -> TrainerOptions:
        """The part that crosses into Transform and Trainer.

        Args:
          classes: Of the data.
          ignore_id: Of the data, where `data.ignore_id` does not say it.
        """
        return TrainerOptions(
            classes=classes,
            ignore_id=ignore_id if self.data.ignore_id is None else self.data.ignore_id,
            transform=self.transform,
            augmentation=self.augmentation,
            model=self.model,
            training=self.training,
            task=self.task,
            fine_tuning=self.fine_tuning,
            grad_cam=self.grad_cam,
        )


def slice_feature(name: str) -> str:
    """The raw example's key of a slice: `brightness` → `slice/brightness`."""
    return features.SLICE_PREFIX + name
