"""What a client's questions are answered with, and how a server's outputs become that."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from serving.errors import InvalidArgumentError, ServerError

Item = TypeVar("Item")


class Label(NamedTuple):
    """A class name and its probability, range [0, 1]."""

    label: str
    score: float


class Prediction(NamedTuple):
    """The answer for one picture.

    Attributes:
      label: The most probable class.
      score: Its probability, range [0, 1].
      top: The most probable classes, best first.
      version: Of the model that answered; None where the server does not tell.
    """

    label: str
    score: float
    top: tuple[Label, ...]
    version: int | None = None


class Mask(NamedTuple):
    """A class for every pixel of one picture.

    Attributes:
      png: PNG of class ids, uint8, in the size that the model works in.
      class_pixels: How many pixels each class has, by id.
      version: Of the model that answered; None where the server does not tell.
    """

    png: bytes
    class_pixels: tuple[int, ...]
    version: int | None = None

    def class_ids(self) -> np.ndarray:
        """The mask as an array, uint8 [s, s]."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self.png)))


class Explanation(NamedTuple):
    """Where the model looked (Grad-CAM), for the class that it found.

    Attributes:
      heatmap: float32 [s, s], range [0, 1]; s is the model's image size.
      overlay_png: The picture with the heat map over it, a PNG file.
      class_id: Of the class.
      label: The class's name; None if the model does not give it.
      score: The class's probability, range [0, 1].
      version: Of the model that answered; None where the server does not tell.
    """

    heatmap: np.ndarray
    overlay_png: bytes
    class_id: int
    label: str | None
    score: float
    version: int | None = None


class Embedding(NamedTuple):
    """What the model's last layer but one makes of a picture.

    Attributes:
      vector: float32 [D], unit length.
      version: Of the model that answered; None where the server does not tell. Vectors of different versions cannot
        be compared.
    """

    vector: np.ndarray
    version: int | None = None


class Answers(tuple[Item | ServerError, ...], Generic[Item]):
    """One entry for every picture, in their order: its answer, or the error that stands in its place."""

    __slots__ = ()

    @property
    def errors(self) -> dict[int, ServerError]:
        """The errors, by the place of the picture."""
        return {index: entry for index, entry in enumerate(self) if isinstance(entry, ServerError)}

    @property
    def versions(self) -> list[int]:
        """The versions that answered, ascending: several if a new one was loaded meanwhile, none if not told."""
        found = {getattr(entry, "version", None) for entry in self}
        return sorted(version for version in found if version is not None)

    def or_raise(self) -> list[Item]:
        """The answers.

        Raises:
          ServerError: The first error, if any picture has one.
        """
        answers: list[Item] = []
        for entry in self:
            if isinstance(entry, ServerError):
                raise entry
            answers.append(entry)
        return answers


class _VersionState(NamedTuple):
    version: int
    state: str


class VersionStatus(_VersionState):
    """One version of a model; it compares as the pair of its version and its state.

    Attributes:
      version: Its number.
      state: "START", "LOADING", "AVAILABLE", "UNLOADING", "END" or "UNKNOWN".
      error: Why it cannot be loaded; empty if nothing is wrong.
    """

    error: str

    def __new__(cls, version: int, state: str, error: str = "") -> VersionStatus:
        """Takes number, state and error."""
        made = super().__new__(cls, version, state)
        made.error = error
        return made


class TensorSpec(NamedTuple):
    """An input or output of a signature.

    Attributes:
      dtype: TensorFlow's name, for example "DT_STRING".
      shape: Sizes, None where any will do; None as a whole if not even the rank is known.
    """

    dtype: str
    shape: tuple[int | None, ...] | None


class SignatureSpec(NamedTuple):
    """What a signature takes and answers, by name."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class Metadata(NamedTuple):
    """What a version of a model can be asked.

    Attributes:
      version: The version that was described.
      signatures: By name.
    """

    version: int
    signatures: dict[str, SignatureSpec]


def predictions(outputs: Mapping[str, Any], version: int | None) -> list[Prediction]:
    """Reads `label` [N] and `score` [N] of `serving_default`.

    Raises:
      ServerError: If the outputs are not a classifier's.
    """
    labels, scores = _columns(outputs, ("label", "score"), "a model of classes")
    found = [Label(_text(name), float(score)) for name, score in zip(labels, scores, strict=True)]
    return [Prediction(best.label, best.score, (best,), version) for best in found]


def ranked(outputs: Mapping[str, Any], version: int | None, top_k: int) -> list[Prediction]:
    """Reads `classes` [N, C] and `scores` [N, C] of `classify`.

    Raises:
      ServerError: If the outputs are not a classifier's.
    """
    classes, scores = _columns(outputs, ("classes", "scores"), "a model of classes")
    answers = []
    for row_names, row_scores in zip(classes, scores, strict=True):
        # Stable, so that equal scores stay in the order of the class ids on both protocols; NaN goes last.
        best = np.argsort(-np.asarray(row_scores, np.float64), kind="stable")[:top_k]
        top = tuple(Label(_text(row_names[index]), float(row_scores[index])) for index in best.tolist())
        answers.append(Prediction(top[0].label, top[0].score, top, version))
    return answers


def masks(outputs: Mapping[str, Any], version: int | None) -> list[Mask]:
    """Reads `mask_png_bytes` [N] and `class_pixels` [N, C] of `serving_default`.

    Raises:
      ServerError: If the outputs are not those of a model of masks.
    """
    pngs, pixels = _columns(outputs, ("mask_png_bytes", "class_pixels"), "a model of masks")
    return [Mask(png, tuple(int(count) for count in counts), version) for png, counts in zip(pngs, pixels, strict=True)]


def explanations(outputs: Mapping[str, Any], version: int | None) -> list[Explanation]:
    """Reads `heatmap` [N, s, s], `overlay_png_bytes` [N], `class_id` [N], `score` [N] and, if given, `label` [N].

    Raises:
      ServerError: If the outputs are not explanations.
    """
    names = ("heatmap", "overlay_png_bytes", "class_id", "score")
    columns = _columns(outputs, names, "a model that explains its classes")
    labels = outputs.get("label", [None] * len(columns[0]))
    return [
        Explanation(
            np.asarray(heatmap, np.float32),
            overlay,
            int(class_id),
            None if label is None else _text(label),
            float(score),
            version,
        )
        for heatmap, overlay, class_id, score, label in zip(*columns, labels, strict=True)
    ]


def embeddings(outputs: Mapping[str, Any], version: int | None) -> list[Embedding]:
    """Reads `embedding` [N, D].

    Raises:
      ServerError: If the outputs hold no embedding.
    """
    (vectors,) = _columns(outputs, ("embedding",), "one of our models")
    return [Embedding(np.asarray(vector, np.float32), version) for vector in vectors]


def _columns(outputs: Mapping[str, Any], names: Sequence[str], kind: str) -> list[Any]:
    if missing := [name for name in names if name not in outputs]:
        wanted = " and ".join(f"`{name}`" for name in missing)
        raise InvalidArgumentError("FAILED_PRECONDITION", f"the answer has no {wanted}: is it {kind}?")
    return [outputs[name] for name in names]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
