"""The scores of the head, and raw pixels."""

import numpy as np
import pytest

from slidepipe.benchmark import controls, head_scores, scores
from slidepipe.classification.reference_set import ReferenceSet
from slidepipe.pipeline.specs import PluginSpec

from .test_scores import blobs


def images_of(embeddings, labels):
    genera = np.array(list("abcd"))[labels]
    return ReferenceSet(embeddings, embeddings + np.float32(0.01), genera, genera, "f", None)


@pytest.fixture(scope="module")
def scored():
    embeddings, labels = blobs(classes=4, each=30, spread=0.5)
    splits = scores.stratified_splits(labels)[:3]
    return head_scores.head_scores(
        images_of(embeddings, labels), labels, ("a", "b", "c", "d"), splits, PluginSpec("knn"), 0.1
    )


def test_head_scores_known_genera(scored):
    assert scored["held_out"]["coverage"] > 0.7
    assert scored["held_out"]["precision"] == 1.0
    assert scored["held_out"]["macro_f1_abstaining"] <= scored["held_out"]["macro_f1_forced"] == 1.0


def test_head_scores_hidden_genera(scored):
    """Each hidden genus is scored, and is never assigned to itself."""
    genera = scored["leave_one_genus_out"]["genera"]
    assert list(genera) == ["a", "b", "c", "d"]
    for name, part in genera.items():
        assert name not in part["into"]
        assert sum(part["into"].values()) == round(part["absorbed"] * part["images"])


def test_head_scores_curve(scored):
    """Coverage falls as alpha rises; coverage and the fraction of missed fossils add up to 1."""
    coverage = [point["coverage"] for point in scored["curve"]]
    assert coverage == sorted(coverage, reverse=True)
    for point, reliable in zip(scored["curve"], scored["reliability"], strict=True):
        assert point["coverage"] + reliable["share"] == pytest.approx(1)


def test_head_scores_or_error():
    embeddings, labels = blobs(classes=3, each=6)
    splits = scores.stratified_splits(labels)
    scored = head_scores.head_scores_or_error(
        images_of(embeddings, labels), labels, ("a", "b", "c"), splits, PluginSpec("knn"), 0.01
    )
    assert "alpha" in scored["error"]


def test_raw_pixels():
    thumbnails = np.zeros((1, 96, 96, 3), np.uint8)
    thumbnails[0, :6, :6] = 60
    pixels = controls.raw_pixels(thumbnails)
    assert pixels.shape == (1, 768)
    assert pixels[0, :3].tolist() == [60, 60, 60]
    assert pixels[0, 3:].sum() == 0
