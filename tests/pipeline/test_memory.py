"""Memory does not grow with the number of slides: the numbers of open slides, cached tiles and submitted blocks are limited."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests import drawn

pytestmark = pytest.mark.slow

SLIDES = 20


def test_memory_over_twenty_slides(tmp_path: Path, colour_well: Path, test_plugins: Path) -> None:
    """The run and its worker use no more memory for the last slides than for the first."""
    discs = [(x, y, 80, drawn.AMBER) for x in range(300, 3000, 700) for y in range(300, 3000, 700)]
    first = drawn.svs(tmp_path / "well" / "1_2-3 100 mC.svs", drawn.field(3072, 3072, discs))
    for number in range(1, SLIDES):
        shutil.copy(first, first.with_name(f"1_2-3 {100 + number} mC.svs"))
    command = [
        sys.executable, "-m", "slidepipe.cli", "run", str(tmp_path / "well"), "--out", str(tmp_path / "results"),
        "--reference", str(colour_well / "reference"), "--plugin", str(test_plugins), "--backbone", "mean-colour",
        "--workers", "1",
    ]  # fmt: skip
    ended: list[int] = []
    samples: list[tuple[int, int, int]] = []  # slides ended, resident bytes of the run and of its worker
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:

        def watch(pause: threading.Event) -> None:
            run = psutil.Process(process.pid)
            while not pause.wait(0.05):
                try:
                    sizes = sorted((child.memory_info().rss for child in run.children(recursive=True)), reverse=True)
                    if sizes:
                        samples.append((len(ended), run.memory_info().rss, sizes[0]))
                except psutil.NoSuchProcess:
                    continue

        pause = threading.Event()
        watcher = threading.Thread(target=watch, args=(pause,))
        watcher.start()
        # The output is read line by line, so that the number of finished slides is known for each sample.
        for line in process.stderr or ():
            if " objects on " in line:
                ended.append(1)
        assert process.wait(300) == 0
        pause.set()
        watcher.join()
    assert len(ended) == SLIDES
    for place in (1, 2):
        early = max(sample[place] for sample in samples if 4 <= sample[0] < 8)
        late = max(sample[place] for sample in samples if 16 <= sample[0] < SLIDES)
        assert late < early * 1.05 + 8 * 2**20
