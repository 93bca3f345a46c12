"""The statistics, against SciPy, by hand, and on data without a difference."""

import numpy as np
import pytest
from scipy import stats

from studies.paired import compare, holm


def test_by_hand():
    compared = compare([3.0, 4.0, 6.0], [1.0, 1.0, 2.0])  # differences 2, 3, 4
    assert compared.mean == 3
    assert compared.p_value == 2 / 8  # all plus, or all minus, of eight
    assert 2 <= compared.low < 3 < compared.high <= 4


def test_smallest_p_value_of_ten_seeds():
    assert compare(np.arange(10) + 5.0, np.zeros(10)).p_value == 2 / 1024


def test_order_of_arms_changes_the_sign_alone():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 8))
    forth, back = compare(a, b), compare(b, a)
    assert forth.mean == -back.mean
    assert forth.p_value == back.p_value
    assert forth.low == pytest.approx(-back.high, abs=0.05)


def test_equal_arms():
    assert compare([1.0, 2.0], [1.0, 2.0]) == (0, 0, 0, 1)


def test_interval_is_near_students():
    rng = np.random.default_rng(1)
    sample = rng.normal(1, 1, 12)
    found = compare(sample, np.zeros(12))
    student = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert found.low == pytest.approx(student.low, abs=0.25)
    assert found.high == pytest.approx(student.high, abs=0.25)


def test_null_data_reject_as_often_as_promised():
    rng = np.random.default_rng(2)
    p_values = [compare(*rng.normal(size=(2, 7))).p_value for _ in range(400)]
    rejected = sum(p <= 0.05 for p in p_values)
    # of 128 equally likely p-values (in pairs) 6 are at most 0.05
    expected = stats.binom(400, 6 / 128)
    assert expected.ppf(0.001) <= rejected <= expected.ppf(0.999)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize(('a', 'b'), [([1.0], [2.0]), ([1.0, 2.0], [1.0])])
def test_values_that_are_no_pairs(a, b):
    with pytest.raises(ValueError, match='two at least'):
        compare(a, b)
