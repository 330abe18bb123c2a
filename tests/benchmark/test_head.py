import numpy as np
import pytest

from slidepipe.benchmark import extras, scores
from slidepipe.classification.reference_set import ReferenceSet
from slidepipe.pipeline.specs import PluginSpec

from .test_scores import blobs


def images_of(embeddings, labels):
    genera = np.array(list("abcd"))[labels]
    return ReferenceSet(embeddings, embeddings + np.float32(0.01), genera, genera, "f", None)


@pytest.fixture(scope="module")
def told():
    embeddings, labels = blobs(classes=4, each=30, spread=0.5)
    splits = scores.stratified_splits(labels)[:3]
    return extras.head_scores(
        images_of(embeddings, labels), labels, ("a", "b", "c", "d"), splits, PluginSpec("knn"), 0.1
    )


def test_known_genera_are_mostly_accepted_and_right(told):
    assert told["held_out"]["coverage"] > 0.7
    assert told["held_out"]["precision"] == 1.0
    assert told["held_out"]["macro_f1_abstaining"] <= told["held_out"]["macro_f1_forced"] == 1.0


def test_each_hidden_genus_is_told_and_never_absorbed_into_itself(told):
    genera = told["leave_one_genus_out"]["genera"]
    assert list(genera) == ["a", "b", "c", "d"]
    for name, part in genera.items():
        assert name not in part["into"]
        assert sum(part["into"].values()) == round(part["absorbed"] * part["images"])


def test_coverage_falls_as_alpha_rises_and_missed_is_what_is_not_covered(told):
    coverage = [point["coverage"] for point in told["curve"]]
    assert coverage == sorted(coverage, reverse=True)
    for point, reliable in zip(told["curve"], told["reliability"], strict=True):
        assert point["coverage"] + reliable["share"] == pytest.approx(1)


def test_a_head_that_cannot_be_fitted_is_a_reason():
    embeddings, labels = blobs(classes=3, each=6)
    splits = scores.stratified_splits(labels)
    told = extras.head_scores_or_reason(
        images_of(embeddings, labels), labels, ("a", "b", "c"), splits, PluginSpec("knn"), 0.01
    )
    assert "alpha" in told["error"]


def test_raw_pixels_are_means_of_cells():
    thumbnails = np.zeros((1, 96, 96, 3), np.uint8)
    thumbnails[0, :6, :6] = 60
    pixels = extras.raw_pixels(thumbnails)
    assert pixels.shape == (1, 768)
    assert pixels[0, :3].tolist() == [60, 60, 60]
    assert pixels[0, 3:].sum() == 0
