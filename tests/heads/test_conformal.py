"""Conformal p-values and their calibration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.errors import ReferenceSetError, SettingsError
from slidepipe.heads.conformal import calibrate, check_alpha, folds_within_class, p_values

GENUS_SCORES = st.lists(st.floats(0, 10), min_size=1, max_size=30)


def test_alpha_outside_0_to_1_is_rejected():
    """Neither 0 nor 1 nor NaN is a valid fraction."""
    for alpha in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(SettingsError, match="between 0 and 1"):
            check_alpha(alpha, np.array(["azolla"] * 20))


def test_reference_set_without_genus_is_rejected():
    """Reject classes alone are not enough."""
    with pytest.raises(ReferenceSetError, match=r"no genus.*_debris"):
        check_alpha(0.1, np.array(["_debris"] * 20))


def test_genus_with_single_image_is_rejected():
    """A single image cannot be held out."""
    with pytest.raises(ReferenceSetError, match="azolla has a single image"):
        check_alpha(0.5, np.array(["azolla", "bisaccate", "bisaccate"]))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(2, 10))
def test_folds_hold_out_every_row_once(labels, folds):
    """Every class is divided evenly into folds of neighbouring rows."""
    labels = np.array(labels)
    fold = folds_within_class(labels, folds)
    assert fold.min() >= 0
    assert fold.max() < folds
    for label in np.unique(labels):
        sizes = np.bincount(fold[labels == label])
        assert len(sizes) == min(folds, (labels == label).sum())
        assert sizes.max() - sizes.min() <= 1
        assert (np.diff(fold[labels == label]) >= 0).all()


def counted(scores: list[float], strangeness: float) -> float:
    """Return the conformal p-value against one list of scores, by the textbook formula."""
    return (1 + sum(score >= strangeness for score in scores)) / (len(scores) + 1)


def scored(*genera: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the strangeness (M, C) of each row to its own class, infinite to others, and its label."""
    labels = np.repeat(np.arange(len(genera)), [len(scores) for scores in genera])
    strangeness = np.full((len(labels), len(genera)), np.inf)
    strangeness[np.arange(len(labels)), labels] = np.concatenate(genera)
    return strangeness, labels


@given(GENUS_SCORES, GENUS_SCORES, st.floats(-1, 11))
def test_p_value_is_weighted_mean_of_own_and_pooled(own, other, strangeness):
    """The own scores have weight n, the scores of all genera weight 40."""
    calibration = calibrate(*scored(own, other), np.array(["azolla", "bisaccate"]))
    weight = len(own) / (len(own) + 40)
    expected = weight * counted(own, strangeness) + (1 - weight) * counted(own + other, strangeness)
    assert p_values(np.array([[strangeness, 0.0]]), calibration)[0, 0] == pytest.approx(expected)


@given(GENUS_SCORES, st.floats(-1, 11))
def test_p_value_of_single_genus(scores, strangeness):
    """With one genus, own and pooled scores are the same."""
    calibration = calibrate(*scored(scores), np.array(["azolla"]))
    assert p_values(np.array([[strangeness]]), calibration)[0, 0] == pytest.approx(counted(scores, strangeness))


def test_reject_classes_are_not_pooled():
    """The scores of debris do not change the p-values of the genera."""
    calibration = calibrate(*scored([1.0, 2.0], [50.0] * 30), np.array(["azolla", "_debris"]))
    np.testing.assert_array_equal(calibration.pooled, [1.0, 2.0])


def test_infinite_scores_are_left_out():
    """A reference with nothing to be compared with gives no calibration score."""
    calibration = calibrate(*scored([1.0, 2.0, np.inf]), np.array(["azolla"]))
    np.testing.assert_array_equal(calibration.own[0], [1.0, 2.0])


@given(st.floats(0.01, 0.99), st.integers(2, 40), st.integers(0, 200))
def test_accepted_alpha_can_be_reached(alpha, count, others):
    """Wherever `check_alpha` accepts an alpha, an object that is less usual than every reference is unknown."""
    genera = np.array(["azolla"] * count + ["bisaccate"] * (count + others))
    try:
        check_alpha(alpha, genera)
    except SettingsError:
        return
    calibration = calibrate(*scored([1.0] * count, [1.0] * (count + others)), np.array(["azolla", "bisaccate"]))
    assert (p_values(np.array([[9.0, 9.0]]), calibration) <= alpha * (1 + 1e-9)).all()
