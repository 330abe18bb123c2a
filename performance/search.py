"""Time of a search over a million stored embeddings: `python -m performance.search [--rows N] [--dim D]`.

Embeddings are random (the cost of a search does not depend on their values), in the layout of a RESULTS folder's index. The
timed function is `slidepipe.search.index.nearest`: scores of all rows, the best rows, and their exact distances. The first
search reads the file; later searches find it in the page cache. The index is written once per RESULTS folder and is timed
separately.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from slidepipe.interfaces import Float32Array
from slidepipe.search.index import nearest, write_index

_SLIDE_ROWS = 20_000


def main() -> None:
    """Write the index, search, print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--folder", type=Path, help="folder for the temporary index")
    options = parser.parse_args()
    rng = np.random.default_rng(0)

    def slides() -> Iterator[Float32Array]:
        for start in range(0, options.rows, _SLIDE_ROWS):
            yield rng.standard_normal((min(_SLIDE_ROWS, options.rows - start), options.dim), np.float32)

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name) / "index"
        started = perf_counter()
        write_index(folder, slides(), options.rows, "benchmark")
        print(
            f"write {options.rows} x {options.dim} (including making the embeddings): {perf_counter() - started:.2f} s"
        )
        for metric in ("cosine", "euclidean"):
            times = []
            for _ in range(5):
                embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
                lengths = np.load(folder / "lengths.npy")
                query = rng.standard_normal(options.dim)
                started = perf_counter()
                nearest(embeddings, lengths, query, 20, metric)
                times.append(perf_counter() - started)
            print(f"{metric}: first {times[0]:.3f} s, median of {len(times)} {median(times):.3f} s")
    threads = os.environ.get("OMP_NUM_THREADS", "one per core")
    print(f"{os.cpu_count()} cores; threads: {threads}; numpy {np.__version__}")


if __name__ == "__main__":
    main()
