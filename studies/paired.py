"""Paired comparisons of arms, by SciPy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9999
BOOTSTRAP_SEED = 0  # a report of the same results is the same


class Comparison(NamedTuple):
    """How much better an arm is than another, over paired seeds.

    Args:
        mean (float): Mean difference.
        low (float): Lower end of its bootstrap interval.
        high (float): Upper end.
        p_value (float): Exact, two-sided, by permutation of signs.
    """

    mean: float
    low: float
    high: float
    p_value: float


def compare(values: Sequence[float], others: Sequence[float]) -> Comparison:
    """Compare two arms, seed by seed.

    The p-value permutes the signs of the differences in all ways (Fisher's test for
    paired samples); the interval is the percentile bootstrap's of their mean.

    Args:
        values (Sequence[float]): Of one arm, by seed.
        others (Sequence[float]): Of the other, in the same order.

    Raises:
        ValueError: If there are not equally many of both, or fewer than two.
    """
    if len(values) != len(others) or len(values) < 2:
        raise ValueError(
            f'paired values must be as many, and two at least; got {len(values)} and '
            f'{len(others)}'
        )
    differences = np.subtract(values, others)
    p_value = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type='samples',
        n_resamples=np.inf,
        vectorized=False,
    ).pvalue
    if np.ptp(differences) == 0:  # the bootstrap has nothing to draw from
        return Comparison(differences[0], differences[0], differences[0], p_value)
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        method='percentile',
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return Comparison(float(differences.mean()), *map(float, interval), float(p_value))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for many comparisons.

    Holm, *A Simple Sequentially Rejective Multiple Test Procedure*, Scandinavian
    Journal of Statistics 6 (1979), pages 65 to 70.

    Args:
        p_values (Sequence[float]): Of one family.

    Returns:
        list[float]: In the same order.
    """
    count, adjusted, largest = len(p_values), {}, 0.0
    for rank, index in enumerate(np.argsort(p_values, kind='stable')):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[int(index)] = largest
    return [adjusted[index] for index in range(count)]
