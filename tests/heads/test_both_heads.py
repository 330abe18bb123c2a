"""What both built-in heads, with each of their metrics, have in common."""

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from slidepipe.errors import ReferenceSetError, SettingsError
from slidepipe.heads import metric
from slidepipe.heads.knn import KnnHead
from slidepipe.heads.logistic import LogisticHead
from slidepipe.interfaces import Head
from tests.heads.clouds import GENERA, draw_clouds, draw_debris

HEADS: list[Callable[[], Head]] = [
    KnnHead,
    lambda: KnnHead(KnnHead.Settings(metric="cosine")),
    lambda: KnnHead(KnnHead.Settings(metric="euclidean", weighting="majority", k=3)),
    LogisticHead,
]
every_head = pytest.mark.parametrize("make", HEADS, ids=["lda", "cosine", "euclidean", "logistic"])


@every_head
def test_fresh_objects_get_their_genus(make):
    """New objects of the references' genera get the right genus, and most are accepted."""
    embeddings, genera = draw_clouds(20, 0)
    fresh, truth = draw_clouds(40, 1)
    head = make()
    assert isinstance(head, Head)
    decisions = head.fit(embeddings, genera, 0.1).predict(fresh)
    assert (decisions.genus == truth).all()
    assert decisions.accepted.mean() > 0.75
    assert (decisions.p_value[decisions.accepted] > 0.1).all()
    assert (decisions.p_value[~decisions.accepted] <= 0.1).all()


@every_head
def test_debris_is_unknown(make):
    """Objects that belong to no genus are not accepted."""
    head = make().fit(*draw_clouds(20, 0), 0.1)
    assert not head.predict(draw_debris(50, 3)).accepted.any()


@every_head
def test_neighbours_are_reference_rows_nearest_first(make):
    """A reference is its own first neighbour, and distances ascend."""
    embeddings, genera = draw_clouds(20, 0)
    decisions = make().fit(embeddings, genera, 0.1).predict(embeddings[:7])
    np.testing.assert_array_equal(decisions.neighbours[:, 0], np.arange(7))
    np.testing.assert_allclose(decisions.neighbour_distances[:, 0], 0, atol=1e-3)
    assert (np.diff(decisions.neighbour_distances, axis=1) >= 0).all()
    np.testing.assert_allclose(decisions.distance, decisions.neighbour_distances[:, 0])


@every_head
def test_rate_of_missed_fossils_is_about_alpha(make):
    """The guarantee of the p-value, for every genus, with references and objects from the same distribution."""
    missed = []
    for seed in range(6):
        embeddings, genera = draw_clouds(24, seed)
        fresh, truth = draw_clouds(60, 100 + seed)
        decisions = make().fit(embeddings, genera, 0.2).predict(fresh)
        missed.append([1 - decisions.accepted[truth == genus].mean() for genus in GENERA])
    assert (np.mean(missed, axis=0) < 0.2 + 0.07).all()


@every_head
def test_larger_alpha_accepts_subset(make):
    """Every object that is accepted at a large alpha is also accepted at a small one."""
    embeddings, genera = draw_clouds(20, 0)
    fresh, _ = draw_clouds(30, 1)
    strict, loose = (make().fit(embeddings, genera, alpha).predict(fresh).accepted for alpha in (0.4, 0.05))
    assert (loose | ~strict).all()
    assert loose.sum() > strict.sum()


@every_head
def test_chunk_size_does_not_change_decisions(make, monkeypatch):
    """Decisions do not depend on how many objects are compared at a time."""
    head = make().fit(*draw_clouds(20, 0), 0.1)
    fresh, _ = draw_clouds(30, 1)
    whole = head.predict(fresh)
    monkeypatch.setattr(metric, "_CHUNK_CELLS", 60 * 7)
    parts = head.predict(fresh)
    np.testing.assert_array_equal(parts.genus, whole.genus)
    np.testing.assert_array_equal(parts.p_value, whole.p_value)
    np.testing.assert_array_equal(parts.neighbours, whole.neighbours)


@every_head
def test_predict_without_objects(make):
    """N may be 0."""
    decisions = make().fit(*draw_clouds(20, 0), 0.1).predict(np.zeros((0, 40), np.float32))
    assert decisions.genus.shape == decisions.accepted.shape == (0,)
    assert decisions.neighbours.shape[0] == 0


@every_head
def test_reject_class_is_never_accepted(make):
    """Objects of a reject class are recognised, but not accepted, whatever their p-value."""
    classes = ("_debris", "areoligera", "deflandrea")
    decisions = make().fit(*draw_clouds(20, 0, genera=classes), 0.1).predict(draw_clouds(40, 1, genera=classes)[0])
    assert (decisions.genus[:40] == "_debris").all()
    assert not decisions.accepted[:40].any()
    assert (decisions.p_value[:40] > 0.1).any()
    assert decisions.accepted[40:].any()


@every_head
def test_small_reject_class_does_not_limit_alpha(make):
    """A reject class of a single image is allowed at any alpha."""
    fossils, genera = draw_clouds(20, 0)
    head = make().fit(np.concatenate([fossils, draw_debris(1, 3)]), np.append(genera, "_debris"), 0.05)
    assert head.predict(fossils).accepted.any()


@every_head
def test_too_small_alpha_is_rejected(make):
    """The smallest genus limits alpha: 12 images allow 1/13, not less."""
    embeddings, genera = draw_clouds(20, 0)
    keep = np.arange(60) >= 8  # leaves 12 images of areoligera
    with pytest.raises(SettingsError, match=r"areoligera has 12 images.*0\.07692") as error:
        make().fit(embeddings[keep], genera[keep], 0.07)
    assert "\n" not in str(error.value)
    make().fit(embeddings[keep], genera[keep], 1 / 13)


@every_head
def test_non_finite_embeddings_are_rejected(make):
    """The message names the row."""
    embeddings, genera = draw_clouds(20, 0)
    spoilt = embeddings.copy()
    spoilt[5, 3] = np.nan
    with pytest.raises(ReferenceSetError, match="row 5"):
        make().fit(spoilt, genera, 0.1)
    with pytest.raises(ReferenceSetError, match="1 of 60 rows"):
        make().fit(embeddings, genera, 0.1).predict(spoilt)


@every_head
def test_embeddings_of_another_length_are_rejected(make):
    """Embeddings of another backbone cannot be compared with the references."""
    with pytest.raises(ReferenceSetError, match=r"\(N, 40\)"):
        make().fit(*draw_clouds(20, 0), 0.1).predict(np.zeros((2, 41), np.float32))


@every_head
def test_fit_is_deterministic(make):
    """Two heads fitted to the same references give identical decisions."""
    fresh, _ = draw_clouds(30, 1)
    first, second = (make().fit(*draw_clouds(20, 0), 0.1).predict(fresh) for _ in range(2))
    np.testing.assert_array_equal(first.p_value, second.p_value)
    np.testing.assert_array_equal(first.distance, second.distance)


@pytest.mark.parametrize("make", [KnnHead, LogisticHead])
def test_single_class_needs_plain_metric(make):
    """What learns from differences between classes rejects a single class; cosine distance accepts it."""
    embeddings, genera = draw_clouds(20, 0, genera=("azolla",))
    with pytest.raises(ReferenceSetError, match="azolla is its only class"):
        make().fit(embeddings, genera, 0.1)
    plain = KnnHead(KnnHead.Settings(metric="cosine")).fit(embeddings, genera, 0.1)
    assert plain.predict(embeddings).accepted.all()


@pytest.mark.parametrize("head", [KnnHead, LogisticHead])
def test_unknown_settings_are_rejected(head):
    """A misspelt setting is an error."""
    with pytest.raises(ValidationError):
        head.Settings(neighbors=5)
