"""The rows of a depth chart: which samples are drawn, and at which height."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from slidepipe.interfaces import FloatArray
from slidepipe.report.chart_data import ChartSample

#: Smallest distance of two rows, in points: the height of a line of the smallest text.
ROW_PT = 8.5

_MIN_BODY_PT = 200.0


@dataclass(frozen=True)
class ChartRows:
    """The samples that a chart shows, and the heights of their rows. Heights are in points, downwards.

    Attributes:
        samples: the samples that are drawn, shallowest first.
        left_out: `sample_id` of the samples that are not drawn, because only the others have a depth.
        has_depth: whether the samples have depths; if not, the rows are drawn at equal distances.
        true_pt: float64 (N,), the height of each sample at true scale.
        drawn_pt: float64 (N,), the height at which each row is drawn (see `spread_rows`).
        origin_m: depth of height 0, in metres.
        pt_per_m: scale of the depth axis, in points per metre.
        scale_pt: length of the depth axis; 0 if all samples have the same depth.
        top_pt: height of the upper edge of the chart.
        bottom_pt: height of the lower edge of the chart.
    """

    samples: list[ChartSample]
    left_out: list[str]
    has_depth: bool
    true_pt: FloatArray
    drawn_pt: FloatArray
    origin_m: float
    pt_per_m: float
    scale_pt: float
    top_pt: float
    bottom_pt: float

    @property
    def moved(self) -> int:
        """Number of rows that are not drawn at their true depth."""
        return int(np.sum(np.abs(self.drawn_pt - self.true_pt) > 0.5))


def arrange_rows(samples: Sequence[ChartSample]) -> ChartRows:
    """Arrange the rows of a chart.

    If at least one sample has a depth, those without a depth are left out.

    Args:
        samples: in any order.
    """
    shown = [sample for sample in samples if sample.depth_m is not None] or list(samples)
    shown.sort(key=lambda sample: (sample.depth_m or 0.0, sample.sample_type))
    has_depth = bool(shown) and shown[0].depth_m is not None
    depths = np.array([sample.depth_m if has_depth else index for index, sample in enumerate(shown)], np.float64)
    # Short charts get more space per row, because a page has room for it.
    body_pt = max(_MIN_BODY_PT, ROW_PT * len(shown) * (2.2 if len(shown) <= 40 else 1.6))
    span = float(np.ptp(depths)) if len(depths) else 0.0
    pt_per_m = body_pt / span if span else 1.0
    origin = float(depths.min()) if len(depths) else 0.0
    true_pt = (depths - origin) * pt_per_m
    drawn_pt = spread_rows(true_pt, ROW_PT)
    scale_pt = body_pt if span else 0.0
    top, bottom = (min(0.0, drawn_pt.min()), max(scale_pt, drawn_pt.max())) if len(drawn_pt) else (0.0, body_pt)
    return ChartRows(
        samples=shown,
        left_out=[sample.sample_id for sample in samples if sample not in shown],
        has_depth=has_depth,
        true_pt=true_pt,
        drawn_pt=drawn_pt,
        origin_m=origin,
        pt_per_m=pt_per_m,
        scale_pt=scale_pt,
        top_pt=top - 1.5 * ROW_PT,
        bottom_pt=bottom + 1.5 * ROW_PT,
    )


def spread_rows(depths_pt: npt.NDArray[np.float64], least_pt: float) -> npt.NDArray[np.float64]:
    """Move rows apart that are closer than `least_pt`; the other rows stay where they are.

    The sum of the squared moves is the smallest possible: the result is the isotonic regression of the rows minus
    their smallest distances (scipy.optimize.isotonic_regression).

    Args:
        depths_pt: float64 (N,), ascending, in points.
        least_pt: smallest distance of two rows, in points.

    Returns:
        float64 (N,), ascending in steps of at least `least_pt`.
    """
    if len(depths_pt) < 2:
        return depths_pt.copy()
    steps = least_pt * np.arange(len(depths_pt))
    return np.asarray(isotonic_regression(depths_pt - steps).x + steps, np.float64)
