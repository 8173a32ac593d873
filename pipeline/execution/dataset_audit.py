"""Audits a dataset without a run: reads its images as ImageExampleGen does, embeds them, and judges the labels."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator

from components.data_audit import audit
from components.data_audit.artifact import Audit
from components.data_audit.images import AuditedImages, LabelledImage
from components.image_example_gen import corrections, image_file, labels, layouts, raw_examples
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.layouts import Candidate
from components.image_example_gen.options import ExampleGenOptions
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.execution.dataset import example_gen_options
from trainer_module import embedding, features, model_versions
from trainer_module.backbones import MissingWeightsError
from trainer_module.embedding import Embed
from trainer_module.locations import join
from trainer_module.model_input import FULL_WINDOW


def embedder(config: PipelineConfig, model_dir: str | None) -> tuple[Embed, str]:
    """Chooses the network of the embeddings.

    Args:
      config: Names the backbone, its weights and the size of images.
      model_dir: Folder of a pushed version, or of several: the newest is used. None for the backbone.

    Returns:
      The embeddings, and what they come from in words.

    Raises:
      ConfigError: If there are neither weights nor a model.
    """
    if model_dir is not None:
        versions = model_versions.list_versions(model_dir).served
        export_dir = join(model_dir, str(versions[0])) if versions else model_dir
        try:
            return embedding.from_saved_model(export_dir), f"the model {export_dir}"
        except embedding.NoEmbeddingError as error:
            raise ConfigError(f"--model: {error}") from None
    if not config.model.has_backbone():
        raise ConfigError(
            f"model.name = {config.model.name} has no pre-trained backbone, which an audit requires. Use transfer, the "
            "default, or --model DIR with the folder of a pushed model."
        )
    options = config.model.model_dump()
    name, weights, geometry = options["backbone"], options["weights"], config.transform.geometry
    try:
        embed = embedding.from_backbone(name, weights=weights, geometry=geometry)
    except MissingWeightsError as error:
        raise ConfigError(
            f"An audit requires a pre-trained network. {error} Or use a model that was trained on these images: "
            "--model DIR, the folder of its pushed versions."
        ) from None
    height, width = geometry.size
    return embed, f"the backbone {name}, weights {weights}, {height} x {width} pixels"


def run(
    config: PipelineConfig,
    dataset: Dataset,
    embed: Embed,
    source: str,
    on_unusable: Callable[[str], None],
) -> Audit:
    """Audits all usable images of a dataset.

    Args:
      config: The whole configuration.
      dataset: The inspected dataset.
      embed: Computes embeddings.
      source: What they come from, in words.
      on_unusable: Called with the path of every file that is not an image, or whose label does not fit, and the reason.

    Raises:
      DamagedContainerError: If a file of many examples is damaged.
    """
    images: list[LabelledImage] = []

    def usable() -> Iterator[bytes]:
        for filename, encoded, names in _read(dataset, example_gen_options(config, dataset), on_unusable):
            images.append(LabelledImage(filename, names))
            yield encoded

    embeddings = embedding.embed_all(embed, usable())
    return audit.run(
        AuditedImages(
            images=images,
            embeddings=embeddings,
            classes=dataset.classes,
            has_sets=dataset.label_features != labels.CLASS_LABEL,
            reviewed=corrections.reviewed(dataset.corrections),
            source=source,
        )
    )


def _read(
    dataset: Dataset, options: ExampleGenOptions, on_unusable: Callable[[str], None]
) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """Yields usable images: the file name, the file as the decoder reads it, and the class names."""
    waiting: collections.deque[Candidate] = collections.deque()

    def contents() -> Iterator[bytes | UnusableImageError]:
        for candidate in layouts.get(dataset.layout).read(dataset.root, dataset.entries, options):
            waiting.append(candidate)
            yield UnusableImageError(candidate.problem) if candidate.problem else candidate.encoded

    for examined in image_file.examine_all(contents(), options.data, options.window or FULL_WINDOW):
        candidate = waiting.popleft()
        try:
            if isinstance(examined.result, UnusableImageError):
                raise examined.result
            label = raw_examples.check_label(candidate.label, examined.result, options).label
        except UnusableImageError as error:
            on_unusable(f"{candidate.filename}: {error}")
            continue
        names = label.get(features.MASK_CLASSES) or labels.class_names(label.items())
        yield candidate.filename, examined.encoded, tuple(dict.fromkeys(map(str, names)))
