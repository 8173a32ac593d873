"""Projections of embeddings to the plane: PCA at once, t-SNE in the background."""

from __future__ import annotations

import logging
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

# More points would neither be seen nor drawn at 30 frames per second.
MAX_POINTS = 10_000
_PERPLEXITY = 30.0
# t-SNE reads this many principal components, as its authors recommend.
_COMPONENTS = 50
_SEED = 0

Name = Literal["pca", "tsne"]


@dataclass
class ProjectionJob:
    """A t-SNE.

    Attributes:
      error: Why it failed; empty if it did not.
      is_running: Whether its thread runs.
    """

    error: str = ""
    is_running: bool = True


def sample(total: int) -> np.ndarray:
    """Chooses at most `MAX_POINTS` of the images, always the same: sorted positions, int64."""
    if total <= MAX_POINTS:
        return np.arange(total)
    return np.sort(np.random.default_rng(_SEED).choice(total, MAX_POINTS, replace=False))


def principal_components(vectors: np.ndarray, num: int) -> np.ndarray:
    """Projects on the axes of the largest variance.

    Args:
      vectors: float [N, D].
      num: Number of axes.

    Returns:
      float32 [N, num]; axes that the data do not have are 0. The largest absolute coordinate of an axis is positive, so
      that the result does not depend on the sign that the solver chose.

    Reference: I. T. Jolliffe, Principal Component Analysis, 2002, section 1.1.
    """
    centered = np.asarray(vectors, np.float64) - vectors.mean(axis=0)
    values, axes = np.linalg.eigh(centered.T @ centered)
    chosen = axes[:, np.argsort(values)[::-1][:num]]
    projected = centered @ chosen
    largest = np.take_along_axis(projected, np.abs(projected).argmax(axis=0)[np.newaxis], axis=0)
    projected *= np.where(largest < 0, -1.0, 1.0)
    return np.pad(projected, [(0, 0), (0, num - projected.shape[1])]).astype(np.float32)


def tsne(vectors: np.ndarray) -> np.ndarray:
    """Computes a t-SNE of float [N, D]: float32 [N, 2].

    Reference: L. van der Maaten & G. Hinton, Visualizing Data using t-SNE, JMLR 2008,
      https://www.jmlr.org/papers/v9/vandermaaten08a.html, section 4.2 (principal components first).
    """
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        return principal_components(vectors, 2)
    reduced = principal_components(vectors, min(_COMPONENTS, vectors.shape[1]))
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: np.ndarray = TSNE(perplexity=perplexity, init="pca", random_state=_SEED, n_jobs=1).fit_transform(
            reduced
        )
    return result.astype(np.float32)


class Projections:
    """Projections of embeddings, which are stored beside them."""

    def __init__(self) -> None:
        """Knows none yet."""
        self._lock = threading.Lock()
        self._jobs: dict[Path, ProjectionJob] = {}

    def get(self, name: Name, folder: Path, vectors: np.ndarray) -> np.ndarray | None:
        """Returns a projection, float32 [N, 2]; None if it has to be computed in the background first.

        Args:
          name: `pca` or `tsne`.
          folder: Folder of the embeddings.
          vectors: float32 [N, D], of the points that are shown.
        """
        path = folder / f"{name}.npy"
        try:
            stored: np.ndarray = np.load(path, allow_pickle=False)
            if stored.shape == (len(vectors), 2):
                return stored
        except (OSError, ValueError):
            pass
        if name == "tsne":
            return None
        projected = principal_components(vectors, 2)
        _save(path, projected)
        return projected

    def start_tsne(self, folder: Path, vectors: np.ndarray) -> ProjectionJob:
        """Starts a t-SNE, or returns the running one."""
        with self._lock:
            job = self._jobs.get(folder)
            if job is None or (not job.is_running and job.error):
                job = self._jobs[folder] = ProjectionJob()
                threading.Thread(target=_compute, args=(folder / "tsne.npy", vectors, job), daemon=True).start()
            return job


def _compute(path: Path, vectors: np.ndarray, job: ProjectionJob) -> None:
    try:
        _save(path, tsne(vectors))
    except Exception as error:
        logging.getLogger(__name__).exception("The t-SNE cannot be computed.")
        job.error = str(error)
    finally:
        job.is_running = False


def _save(path: Path, values: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.save(file, values)
    temporary.replace(path)
