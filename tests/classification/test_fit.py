"""Fitting heads to a reference set with reviewed objects."""

import numpy as np

from slidepipe.classification.fit import SlideHeads
from slidepipe.classification.reference_set import DEBRIS, LEAST_DEBRIS, JoinedReference, ReferenceSet
from slidepipe.interfaces import Decisions, Head


def joined(rows: list[tuple[str, str]]) -> JoinedReference:
    """Return a reference set of rows (genus, slide); an embedding is the row's own number."""
    genera, slides = zip(*rows, strict=True)
    embeddings = np.arange(len(rows), dtype=np.float32)[:, None]
    files = np.array([f"file{row}" for row in range(len(rows))])
    return JoinedReference(ReferenceSet(embeddings, embeddings + 0.5, np.array(genera), files, "f", None), slides)


class RecordingHead(Head):
    """A head that records the rows to which it is fitted."""

    name = "recording"

    def fit(self, embeddings: np.ndarray, genera: np.ndarray, alpha: float) -> "RecordingHead":
        self.rows = embeddings[:, 0].astype(int).tolist()
        return self

    def predict(self, embeddings: np.ndarray) -> Decisions:
        raise NotImplementedError


def test_slide_heads_leave_out_own_slide() -> None:
    """The head of a slide is fitted without the objects that lie on it; slides without reviewed objects share one head."""
    reference = joined([("azolla", ""), ("azolla", "a"), ("azolla", "b"), ("deflandrea", "")])
    heads = SlideHeads(RecordingHead, 0.1, reference)
    head, own = heads.of("a")
    assert head.rows == [0, 2, 3]  # type: ignore[attr-defined]  # RecordingHead.rows
    assert own.files.tolist() == ["file0", "file2", "file3"]
    assert heads.of("c")[0].rows == [0, 1, 2, 3]  # type: ignore[attr-defined]  # RecordingHead.rows
    assert heads.of("c")[0] is heads.of("d")[0]


def test_without_slide_drops_small_debris_class() -> None:
    """Fewer than `LEAST_DEBRIS` reviewed objects make no reject class, unless the reference folder has that class itself."""
    elsewhere = [(DEBRIS, f"other {n}") for n in range(LEAST_DEBRIS - 1)]
    few = joined([("azolla", ""), (DEBRIS, "a"), *elsewhere])
    assert few.without_slide("a").genera.tolist() == ["azolla"]
    assert few.without_slide("c").genera.tolist().count(DEBRIS) == LEAST_DEBRIS
    own_folder = joined([("azolla", ""), (DEBRIS, ""), (DEBRIS, "a")])
    assert own_folder.without_slide("a").genera.tolist() == ["azolla", DEBRIS]
