"""Two-sample tests: probability of two samples at least as different as these, if both came from one distribution.

NumPy and SciPy only. alibi-detect has the same tests, but requires TensorFlow or PyTorch for the one on embeddings and
pins NumPy below 2.

Reference: Rabanser, Guennemann & Lipton 2019, Failing Loudly, https://arxiv.org/abs/1810.11953, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Of each sample of vectors; the time grows with the square.
_MOST_COMPARED = 1000
_DIVISIONS_AT_ONCE = 2000
# Chi-squared is inexact for fewer expected images: rarer classes are counted together.
_LEAST_EXPECTED = 5.0


class TwoSampleTest(NamedTuple):
    """The result of a test.

    Attributes:
      statistic: Larger is more different.
      p_value: Range (0, 1].
    """

    statistic: float
    p_value: float


def kolmogorov_smirnov(reference: np.ndarray, window: np.ndarray) -> TwoSampleTest:
    """Compares the distributions of a number, float [N] and [M]; conservative if values are equal."""
    from scipy import stats

    result = stats.ks_2samp(reference, window, method="asymp")
    return TwoSampleTest(float(result.statistic), float(result.pvalue))


def chi_squared(reference: np.ndarray, window: np.ndarray, num_classes: int) -> TwoSampleTest:
    """Compares the frequencies of classes; int [N] and [M], -1 for none. Rare classes count as one."""
    from scipy import stats

    counts = np.stack([np.bincount(ids + 1, minlength=num_classes + 1) for ids in (reference, window)])
    expected = counts.sum(axis=0) * min(len(reference), len(window)) / (len(reference) + len(window))
    rare = expected < _LEAST_EXPECTED
    table = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return TwoSampleTest(0.0, 1.0)
    result = stats.chi2_contingency(table, correction=False)
    return TwoSampleTest(float(result.statistic), float(result.pvalue))


def larger_mean(
    reference: np.ndarray, window: np.ndarray, power: int, permutations: int, seed: int = 0
) -> TwoSampleTest:
    """Tests by permutations whether the mean of the window, float [M], is larger than that of the reference, float [N].

    Few values that are much larger hardly move a distribution, and the tests of whole distributions miss them. A power
    gives them weight. The statistic is the ratio of the means, minus one.

    Reference: Pitman 1937, Significance Tests Which May be Applied to Samples from any Populations,
    https://doi.org/10.2307/2984124.
    """
    from scipy import stats

    largest = max(reference.max(), window.max()) or 1.0
    first, second = ((values / largest) ** power for values in (window, reference))
    result = stats.permutation_test(
        (first, second),
        lambda window, reference, axis: window.mean(axis=axis),
        permutation_type="independent",
        vectorized=True,
        n_resamples=permutations,
        batch=_DIVISIONS_AT_ONCE,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return TwoSampleTest(float(first.mean() / (second.mean() or 1.0) - 1.0), float(result.pvalue))


def maximum_mean_discrepancy(
    reference: np.ndarray, window: np.ndarray, permutations: int, seed: int = 0
) -> TwoSampleTest:
    """Compares the distributions of vectors, float [N, D] and [M, D], by permutations.

    The kernel is Gaussian; its bandwidth is the median distance. The smallest p-value is 1 / (permutations + 1).

    Reference: Gretton et al. 2012, A Kernel Two-Sample Test, JMLR 13, sections 3 (statistic) and 8 (bandwidth).
    """
    random = np.random.default_rng(seed)
    reference, window = (sample[random.permutation(len(sample))[:_MOST_COMPARED]] for sample in (reference, window))
    kernel = _gaussian_kernel(np.concatenate([reference, window]).astype(np.float32))
    num, total = len(reference), len(kernel)
    (observed,) = _discrepancies(kernel, (np.arange(total) < num)[np.newaxis].astype(np.float32), num)
    exceeded = 0
    for start in range(0, permutations, _DIVISIONS_AT_ONCE):
        members = np.zeros((min(_DIVISIONS_AT_ONCE, permutations - start), total), np.float32)
        for row in members:
            row[random.permutation(total)[:num]] = 1.0
        exceeded += int((_discrepancies(kernel, members, num) >= observed).sum())
    return TwoSampleTest(float(observed), (1 + exceeded) / (permutations + 1))


def _gaussian_kernel(vectors: np.ndarray) -> np.ndarray:
    """Returns the kernel of all pairs, float32 [T, T], with zeros for a vector and itself."""
    squares = np.einsum("ij,ij->i", vectors, vectors)
    distances = np.maximum(squares[:, np.newaxis] + squares - 2.0 * vectors @ vectors.T, 0.0)
    median = float(np.median(distances[np.triu_indices(len(distances), 1)])) or 1.0
    kernel: np.ndarray = np.exp(-distances / median)
    np.fill_diagonal(kernel, 0.0)
    return kernel


def _discrepancies(kernel: np.ndarray, members: np.ndarray, num: int) -> np.ndarray:
    """Returns the unbiased squared discrepancy of every division into `num` members and the others, float [P]."""
    others = kernel.shape[0] - num
    products = members @ kernel
    inside = np.einsum("ij,ij->i", products, members).astype(np.float64)
    across = products.sum(axis=1, dtype=np.float64) - inside
    outside = float(kernel.sum(dtype=np.float64)) - inside - 2.0 * across
    discrepancies: np.ndarray = (
        inside / (num * (num - 1)) + outside / (others * (others - 1)) - 2.0 * across / (num * others)
    )
    return discrepancies
