"""Connected components of a mask by its runs of pixels, not by its pixels: places, holes and masks of what is wanted.

A window of a scan has 12 million pixels, some 50,000 runs and some 600 objects. Labelling every pixel, and looking at every label
again for the place of each component, costs more than all the rest that is done to the window as a whole.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidepipe.interfaces import BoolArray

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Components:
    """Components of a mask that touch by edges or corners, N of them, in the order of their first pixels, row by row.

    Attributes:
        top, bottom, left, right: (N,), the place of each, half-open, in pixels.
        holes: (N,), how many holes each encloses (a corner of the mask is a wall).
    """

    top: Indices
    bottom: Indices
    left: Indices
    right: Indices
    holes: Indices
    _first: Indices
    """(N + 1,), where the runs of each component start in the arrays below."""
    _row: Indices
    _start: Indices
    _stop: Indices

    def __len__(self) -> int:
        return len(self.top)

    def mask(self, number: int) -> BoolArray:
        """The pixels of one component within its place: bool (height, width)."""
        top, left = self.top[number], self.left[number]
        height, width = int(self.bottom[number] - top), int(self.right[number] - left)
        runs = slice(self._first[number], self._first[number + 1])
        begin = (self._row[runs] - top) * width - left
        steps = np.zeros(height * width + 1, np.int8)
        # A run may stop where that of the next row starts: no index is twice on one side.
        steps[begin + self._start[runs]] = 1
        steps[begin + self._stop[runs]] -= 1
        return np.add.accumulate(steps[:-1], dtype=np.int8).view(np.bool_).reshape(height, width)


def components(mask: BoolArray) -> Components:
    """Find the components of a mask, bool (H, W).

    Two runs of neighbouring rows belong together where they touch. Runs and the places where they touch make a graph; a
    component has as many holes as its graph has independent circles: touches - runs + 1.
    """
    height, width = mask.shape
    stride = width + 1  # a column that is no mask parts the rows
    flat = np.zeros(height * stride + 1, np.bool_)
    flat[1:].reshape(height, stride)[:, :width] = mask
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    start, stop = edges[::2], edges[1::2]
    low = np.searchsorted(stop, start + stride)
    touching = np.maximum(np.searchsorted(start, stop + stride, side="right") - low, 0)
    upper = np.repeat(np.arange(len(start)), touching)
    lower = np.arange(len(upper)) + np.repeat(low - (np.cumsum(touching) - touching), touching)
    root = _roots(len(start), upper, lower)
    order = np.argsort(root, kind="stable")
    firsts = np.flatnonzero(root == np.arange(len(root)))
    counts = np.bincount(root, minlength=len(root))[firsts]
    first = np.concatenate(([0], np.cumsum(counts)))
    row = start[order] // stride
    begin, end = start[order] - row * stride, stop[order] - row * stride
    holes = np.bincount(root[upper], minlength=len(root))[firsts] - counts + 1
    some = len(firsts) > 0  # reduceat wants something to reduce
    return Components(
        top=row[first[:-1]],
        bottom=row[first[1:] - 1] + 1,
        left=np.minimum.reduceat(begin, first[:-1]) if some else begin,
        right=np.maximum.reduceat(end, first[:-1]) if some else end,
        holes=holes,
        _first=first,
        _row=row,
        _start=begin,
        _stop=end,
    )


def _roots(count: int, one: Indices, other: Indices) -> Indices:
    """The lowest number that each of ``count`` nodes is connected with, given the nodes at both ends of each edge."""
    root = np.arange(count)
    while True:
        ends = root[one], root[other]
        low, high = np.minimum(*ends), np.maximum(*ends)
        apart = low < high
        if not apart.any():
            return root
        one, other = one[apart], other[apart]
        # Where several hook the same one, the last is taken and the others come back in the next round.
        root[high[apart]] = low[apart]
        while True:
            further = root[root]
            if (further == root).all():
                break
            root = further
