"""The configuration: frozen, complete, checked before anything heavy is imported. The only reader of TOML."""

from __future__ import annotations

import re
import tomllib
import types
import typing
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import tomlkit
from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from components.evaluator.options import EvaluationOptions
from components.evaluator.options import check as check_evaluation
from components.example_validator.options import DriftOptions
from components.image_example_gen.options import DataOptions
from components.serving_validator.options import ServingLimits
from pipeline.execution.beam_options import ENGINES, BeamSection
from pipeline.kubeflow.options import KubeflowOptions
from trainer_module import backbones, features, models, search_space
from trainer_module.error_text import did_you_mean
from trainer_module.locations import absolute, is_remote, is_whole, join
from trainer_module.models import scratch_cnn
from trainer_module.options import (
    AugmentationOptions,
    ExplanationOptions,
    FineTuningOptions,
    SegmentationOptions,
    TrainerOptions,
    TrainingOptions,
    TransformOptions,
    check_explanations,
    check_fine_tuning,
    check_labels,
    check_model,
    parse_model,
)
from trainer_module.search_space import TunerOptions
from trainer_module.section import ModelOptions, Section


class ConfigError(Exception):
    """The configuration or the data that it points to cannot be used; the message says what to change."""


class PipelineSection(Section):
    """`[pipeline]`: what the run is called and where it keeps its things."""

    name: str = Field(
        default="pictures",
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
        if value is not None and not is_whole(value):
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
    segmentation: SegmentationOptions = SegmentationOptions()
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
        check_labels(self.model, self.augmentation, self.training)
        check_explanations(self.model, self.grad_cam)
        check_evaluation(self.evaluation.of_task(self.model.task), self.model.task)
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
            if self.training.distribution == "multi_worker":
                raise ValueError(
                    'training.distribution = "multi_worker" and tuner.enabled do not go together: every worker would '
                    "search by itself. Search first, and set what was found"
                )
            _check_objective(self)
            search_space.check_room_for_halving(self, self.tuner)
            _check_shortest_trial(self)
            mistakes = [text for name in self.tuner.space for text in _mistakes_in_space(self, name)]
            if mistakes:
                raise ValueError("\n  ".join(mistakes))
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

    def check_cluster(self) -> None:
        """Refuses what pods of Kubeflow Pipelines could not run.

        Raises:
          ConfigError: With everything that is missing or does not fit.
        """
        options = self.kubeflow
        needed = {
            "image": "the container image of this project, in a registry that the cluster reaches",
            "data_path": "where pods see the pictures: below a mounted volume, or gs:// and the like",
            "work_path": "a folder on a mounted volume, for what outlives a run",
        }
        wrong = [f"kubeflow.{key} is missing: {what}." for key, what in needed.items() if not getattr(options, key)]
        if self.beam.runner in ENGINES:
            wrong.append(
                f'beam.runner = "{self.beam.runner}" does not see the folders of a pod, where Kubeflow puts what a '
                'node reads and writes: take "multi_processing" with the cores of kubeflow.nodes, or `tfx-vision run` '
                "on a volume that the engine's workers mount."
            )
        if self.pipeline.artifacts is not None:
            wrong.append(
                "pipeline.artifacts is of `tfx-vision run`: a cluster keeps artifacts in kubeflow.pipeline_root."
            )
        if self.training.distribution == "multi_worker":
            wrong.append(
                'training.distribution = "multi_worker" needs Trainers on several machines, and a node of Kubeflow '
                'Pipelines is one pod: take "mirrored" for all its GPUs, or "none".'
            )
        paths = {
            "serving.base_directory": self.serving.base_directory,
            "data.manifest": self.data.manifest,
            "data.metadata_csv": self.data.metadata_csv,
        }
        for name, path in paths.items():
            if path is not None and not is_remote(str(path)):
                try:
                    options.check_mounted(name, str(path))
                except ValueError as error:
                    wrong.append(f"{error}.")
        if is_remote(self.serving.base_directory or ""):
            wrong.append(
                "serving.base_directory must lie below a mounted volume: there the run looks for the model to beat."
            )
        if wrong:
            raise ConfigError("\n  ".join(wrong))

    def on_cluster(self) -> PipelineConfig:
        """The configuration as pods see it: with the cluster's paths.

        Raises:
          ConfigError: As `check_cluster`.
        """
        self.check_cluster()
        assert self.kubeflow.work_path is not None
        return self.model_copy(
            update={
                "pipeline": self.pipeline.model_copy(update={"root": Path(self.kubeflow.work_path)}),
                "data": self.data.model_copy(update={"source": "folder", "path": self.kubeflow.data_path}),
            }
        )

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
            segmentation=self.segmentation,
            fine_tuning=self.fine_tuning,
            grad_cam=self.grad_cam,
        )


def _check_objective(config: PipelineConfig) -> None:
    objective, task = config.tuner.objective, config.model.task
    known = search_space.OBJECTIVES[task]
    if objective not in known:
        raise ValueError(
            f"tuner.objective: {task} has no `{objective}`"
            f"{did_you_mean(objective, known) or '. It has: ' + ', '.join(known) + '.'}"
        )


def _in_shortest_trial(config: PipelineConfig, values: dict[str, search_space.Number]) -> str:
    """What is wrong with the whole configuration of a trial; with the shortest, as the others have more room."""
    length = search_space.trial_length(config, search_space.shortest_trial(config, config.tuner))
    try:
        search_space.with_values(config, {"tuner.enabled": False} | length | values, context={"needs_data": False})
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return ""


def _check_shortest_trial(config: PipelineConfig) -> None:
    if mistake := _in_shortest_trial(config, {}):
        raise ValueError(f"tuner.epochs = {config.tuner.epochs} leaves the shortest trials too few of them: {mistake}")


def _mistakes_in_space(config: PipelineConfig, name: str) -> list[str]:
    """What is wrong with one field of `tuner.space`, a sentence each."""
    known = search_space.numeric_fields(config)
    section, _, key = name.partition(".")
    where = f"tuner.space: `{name}`"
    if name in search_space.NOT_TUNED:
        return [f"{where} is not tuned: tuner.epochs says how long a trial is, and a lucky seed is no better setting"]
    if name not in known:
        if section in search_space.SECTIONS and key in type(getattr(config, section)).model_fields:
            return [f"{where} is no number. Numbers in [{section}]: {', '.join(_of_section(known, section))}."]
        some = _of_section(known, section) or list(known)
        return [f"{where} is unknown{did_you_mean(name, known) or '. Numbers: ' + ', '.join(some) + '.'}"]
    if needed := search_space.missing_condition(config, name):
        return [f"{where} has no effect: it is read only with {needed}"]
    if name in search_space.LOSS_FIELDS and config.tuner.objective == "val_loss":
        return [f"{where} changes the loss itself, which then compares nothing: set another tuner.objective"]
    # Each value is put into the whole configuration, as a trial will do it: whatever is refused there is refused here.
    chosen = config.tuner.space[name]
    for value in chosen.values() or chosen.bounds():
        if mistake := _in_shortest_trial(config, {name: value}):
            return [f"{where} = {value:g}: {mistake}"]
    return []


def _of_section(names: typing.Iterable[str], section: str) -> list[str]:
    return [name for name in names if name.startswith(f"{section}.")]


def slice_feature(name: str) -> str:
    """The raw example's key of a slice: `brightness` → `slice/brightness`."""
    return features.SLICE_PREFIX + name


# --- Loading ----------------------------------------------------------------------------------------------------


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files("pipeline") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """A preset's TOML, header comment included."""
    return (resources.files("pipeline") / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def load(
    name_or_path: str, *, data: str | None = None, overrides: typing.Sequence[str] = (), needs_data: bool = True
) -> PipelineConfig:
    """Reads a preset or a TOML file.

    Args:
      name_or_path: A preset's name, or the path of a TOML file.
      data: Replaces `data.path` (and makes `data.source` a folder).
      overrides: `section.key=value` strings; the value is TOML, or a bare word for a string.
      needs_data: Whether it is a mistake to say nothing of where the pictures are.

    Raises:
      ConfigError: With everything that is wrong, one line each.
    """
    table = _read(name_or_path)
    _forget_another_model(table, overrides)
    for override in overrides:
        _apply(table, override)
    if data is not None:
        _section(table, "data").update(path=data, source="folder")
        if is_preset(name_or_path) and not any(o.strip().startswith("pipeline.name") for o in overrides):
            # Runs on different pictures are different pipelines: one must not replace the other's served model.
            _section(table, "pipeline")["name"] = _slug(data)
    try:
        return PipelineConfig.model_validate(table, context={"needs_data": needs_data})
    except ValidationError as error:
        lines = [_explain(detail, table) for detail in error.errors()]
        raise ConfigError(f"{name_or_path}: " + "\n  ".join(lines)) from None


def is_preset(name_or_path: str) -> bool:
    """Whether a preset is meant, and not a file that has the same name."""
    return name_or_path in preset_names() and not Path(name_or_path).expanduser().is_file()


def _slug(data: str) -> str:
    """A pipeline's name from where its pictures are: small letters, digits and hyphens.

    The folder's name; a manifest's, with the folder's before it; of spans the folder that they lie in and what stands
    before the placeholder. Different data should not share a run's folder.
    """
    *_, above, last = ["", *absolute(data.partition("{")[0]).rstrip("/").split("/")]
    if data.endswith((".csv", ".jsonl")):
        stem = last.rpartition(".")[0]
        last = above if stem == "manifest" else f"{above}-{stem}"
    elif "{" in data and not data.partition("{")[0].endswith("/"):
        last = f"{above}-{last}"
    words = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")
    return words[:62] or "pictures"


def _read(name_or_path: str) -> dict[str, Any]:
    path = Path(name_or_path).expanduser()
    if is_preset(name_or_path):
        return tomllib.loads(preset_text(name_or_path))
    if not path.is_file():
        raise ConfigError(
            f"{name_or_path!r} is neither a preset nor a file{did_you_mean(name_or_path, preset_names()) or '.'} "
            f"Presets: {', '.join(preset_names())}."
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _section(table: dict[str, Any], name: str) -> dict[str, Any]:
    section = table.setdefault(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"`{name}` must be a section, not a value.")
    return section


def _forget_another_model(table: dict[str, Any], overrides: typing.Sequence[str]) -> None:
    """Empties `[model]` where an override names another model: what it says are the keys of the first.

    Of a model with another task nothing that is demanded of the first one's figures stays either.
    """
    model = _section(table, "model")
    before = model.get("name", models.DEFAULT)
    for override in overrides:
        key, _, text = override.partition("=")
        name = text.strip().strip("\"'")
        if key.strip() == "model.name" and name != before:
            table["model"] = {}
            known = {before, name} <= set(models.names())
            if known and models.get(before).Options.task != models.get(name).Options.task:
                said = EvaluationOptions()
                for rule in {**said.overall_rules(), **said.bound_rules()}:
                    _section(table, "evaluation").pop(rule, None)


def _apply(table: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not separator or not sections or not all([*sections, last]):
        raise ConfigError(f"--set {override}: expected section.key=value, for example training.epochs=5.")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for section in sections:
        table = _section(table, section)
    table[last] = value


def with_absolute_paths(config: PipelineConfig) -> PipelineConfig:
    """The same configuration for whoever reads it from another folder."""

    def place(value: str | Path | None) -> str | Path | None:
        # As it is spelt wherever it is used: another spelling is another value to the cache.
        return value.expanduser().absolute() if isinstance(value, Path) else value and absolute(value)

    def of(section: BaseModel, *keys: str) -> dict[str, Any]:
        return {key: place(getattr(section, key)) for key in keys}

    model = config.model
    weights = [key for key in type(model).model_fields if key.endswith("weights")]
    files = [key for key in weights if getattr(model, key) not in (backbones.IMAGENET, backbones.RANDOM)]
    return config.model_copy(
        update={
            "pipeline": config.pipeline.model_copy(update=of(config.pipeline, "root", "artifacts")),
            "data": config.data.model_copy(update=of(config.data, "path", "manifest", "metadata_csv")),
            "model": model.model_copy(update=of(model, *files)),
            "serving": config.serving.model_copy(update=of(config.serving, "base_directory")),
        }
    )


def as_toml(config: PipelineConfig) -> str:
    """The whole configuration, defaults included, as a file that `load` reads."""
    # TOML has no null: what is absent is None again.
    return tomlkit.dumps(config.model_dump(mode="json", exclude_none=True))


# --- Saying what is wrong ---------------------------------------------------------------------------------------


def _explain(detail: Any, table: dict[str, Any]) -> str:
    location = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        *sections, key = location
        known = _known_keys(sections, table)
        where = f" in [{'.'.join(sections)}]" if sections else ""
        suggestion = did_you_mean(key, known) or f". Known keys: {', '.join(known)}."
        return f"Unknown key `{key}`{where}{suggestion}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        given = ""
    else:
        given = f" (given: {detail['input']!r})"
    return f"{'.'.join(location)}: {message}{given}" if location else f"{message}"


def _known_keys(sections: typing.Sequence[str], table: dict[str, Any]) -> list[str]:
    model: type[BaseModel] | None = PipelineConfig
    names = iter(sections)
    for name in names:
        if model is None:
            return []
        if name == "model" and model is PipelineConfig:
            model = models.get(table["model"].get("name", models.DEFAULT)).Options
            continue
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        if typing.get_origin(annotation) is dict:
            next(names, None)  # a key of the user's
            annotation = typing.get_args(annotation)[1]
        elif typing.get_origin(annotation) is tuple:
            next(names, None)  # an index
            annotation = typing.get_args(annotation)[0]
        model = _model_in(annotation)
    return list(model.model_fields) if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType):
        return next((found for found in map(_model_in, typing.get_args(annotation)) if found), None)
    return None
