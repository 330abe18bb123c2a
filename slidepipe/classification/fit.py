"""Fit heads to a reference set: one head for all slides, and one more for each slide with reviewed objects."""

from collections.abc import Callable

from slidepipe.classification.reference_set import JoinedReference, ReferenceSet
from slidepipe.interfaces import Head


def fit_head(head: Head, reference: ReferenceSet, alpha: float) -> Head:
    """Fit a head to a reference set.

    Args:
        head: not fitted yet.
        reference: M references.
        alpha: largest fraction of the fossils of each genus that may be left unknown.

    Returns:
        The fitted head.
    """
    return head.fit_with_crop_like(reference.embeddings, reference.genera, alpha, reference.crop_like)


class SlideHeads:
    """The fitted head of each slide, and the reference set it was fitted to.

    A reviewed object must not help to judge its own slide: it would be its own nearest neighbour, and the calibration would
    already include it. So each slide with reviewed objects gets a head that is fitted without them; all other slides
    share one head.
    """

    def __init__(self, create: Callable[[], Head], alpha: float, reference: JoinedReference) -> None:
        self._create, self._alpha, self._reference = create, alpha, reference
        self._common = self._fit(reference.all)

    def of(self, slide: str) -> tuple[Head, ReferenceSet]:
        """Return the head for a slide, and the reference set whose rows its neighbours are.

        Args:
            slide: the slide's identity, a hash of its bytes.
        """
        own = self._reference.without_slide(slide)
        return (self._common if own is self._reference.all else self._fit(own)), own

    def _fit(self, reference: ReferenceSet) -> Head:
        return fit_head(self._create(), reference, self._alpha)
