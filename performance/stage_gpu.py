"""Embedding on an NVIDIA GPU: ViT-S/16 from stored crops to stored embeddings, as in a run, compared with the GPU's matrix rate.

A dense scan is run first with the default backbone, then with ViT-S/16 (random weights; speed does not depend on them). The
second run finds boxes and crops stored and only embeds. Its rate of floating-point operations (counted by torch's
FlopCounterMode) is compared with that of a bf16 product of two large matrices on the same GPU, and with a simple loop as
users write it: PIL opens and resizes a stored crop, and the same 8 orientations pass through the network in float32, 64
images at a time. The utilisation of the GPU is that of nvidia-smi, from the first sample above 0 to the last.
"""

import io
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from performance.figures import Measured, Row, at_least
from performance.growth import REFERENCE
from performance.made_scans import blocks_of_tiles, spread, write_blocks
from performance.scale import Scale
from performance.timing import run_slidepipe
from slidepipe.embedding.square import orient_squares
from slidepipe.store.arrays import CropReader
from slidepipe.store.slide_store import SlideStore

ARCHITECTURE, INPUT_PX, ORIENTATIONS = "vit_small_patch16_224", 224, 8
_MATRIX, _PLAIN_CROPS, _BATCH = 8192, 128, 64


def measure(scale: Scale) -> Measured:
    """Measure on the first GPU; without a GPU the measurement is skipped."""
    import torch

    if not torch.cuda.is_available():
        return Measured(skipped=["embedding on a GPU: no GPU"])
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder), scale)


def _measure(root: Path, scale: Scale) -> Measured:
    weights, config = _random_weights(root), root / "vit.yaml"
    settings = {
        "reference": str(REFERENCE),
        "backbone": {"name": f"timm:{ARCHITECTURE}", "weights": str(weights), "orientations": ORIENTATIONS},
    }
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    well, out, cache = root / "well", root / "results", root / "cache"
    well.mkdir()
    side = 4 * scale.dense_blocks
    write_blocks(well / "1_2-3 100 mDC.svs", side, side, spread(side * side, side, side), blocks_of_tiles())
    run_slidepipe(["run", well, "--out", out, "--reference", REFERENCE], cache=cache)
    (slide,) = [path.parent for path in (out / "slides").rglob("crops") if path.is_dir()]
    with _Utilisation() as used:
        run_slidepipe(["run", well, "--out", out, "--config", config], cache=cache)
    stored = SlideStore(slide).attributes("embeddings")
    images = int(stored["objects"]) * ORIENTATIONS
    rate, peak = images / float(stored["seconds"]), _matrix_rate(scale.repeats)
    share = rate * _operations() / peak
    plain = _plain_rate(SlideStore(slide).crops())
    figures = {
        "stored": stored,
        "images": images,
        "images_a_second": rate,
        "operations_an_image": _operations(),
        "bf16_matrix_operations_a_second": peak,
        "share_of_matrix_rate": share,
        "plain_images_a_second": plain,
        "busy": used.share(),
        "utilisation": used.samples,
    }
    compared = f"{rate:.0f} images a second; bf16 matrix rate {peak / 1e12:.0f} Tflop/s"
    rows = [
        at_least(
            "GPU: ViT-S/16, stored crops to stored embeddings, share of the GPU's bf16 matrix rate",
            share,
            0.4,
            floor=compared,
        ),
        at_least(
            "GPU: times a plain float32 loop with PIL", rate / plain, 10, "{:.1f}", f"{plain:.0f} images a second"
        ),
        at_least("GPU: share of the embed stage that the GPU is busy", used.share(), 0.9),
    ]
    if "loader_wait_s" in stored:
        rows.append(Row("GPU: loader wait, s", f"{stored['loader_wait_s']:.1f}", f"of {stored['seconds']:.1f} s"))
    return Measured(rows, figures)


def _random_weights(root: Path) -> Path:
    import timm
    import torch

    torch.manual_seed(0)
    path = root / "vit.pth"
    torch.save(timm.create_model(ARCHITECTURE, num_classes=0).state_dict(), path)
    return path


def _operations() -> float:
    """Return the floating-point operations of one image; a multiplication and an addition count as two."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = timm.create_model(ARCHITECTURE, num_classes=0).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, INPUT_PX, INPUT_PX))
    return float(counter.get_total_flops())


def _matrix_rate(repeats: int) -> float:
    """Return the floating-point operations per second of a large bf16 matrix product."""
    import torch

    one = torch.randn(_MATRIX, _MATRIX, device="cuda", dtype=torch.bfloat16)
    seconds = []
    for _ in range(repeats + 3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(20):
            torch.mm(one, one)
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / 20)
    return float(2 * _MATRIX**3 / statistics.median(seconds[3:]))


def _plain_rate(reader: CropReader) -> float:
    """Return the images per second of a simple loop, over the same orientations."""
    import timm
    import torch

    network = timm.create_model(ARCHITECTURE, num_classes=0).eval().cuda()
    jpegs = reader.jpegs(0, min(_PLAIN_CROPS, len(reader)))

    def run() -> None:
        waiting: list[Any] = []
        for jpeg in jpegs:
            image = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC)
            waiting += [view[0] for view in orient_squares(np.asarray(image)[None], ORIENTATIONS)]
            if len(waiting) >= _BATCH:
                pixels = torch.from_numpy(np.stack(waiting)).permute(0, 3, 1, 2).float().div(255).cuda()
                network(pixels).cpu()
                waiting = []

    with torch.inference_mode():
        run()
        started = time.perf_counter()
        run()
    return len(jpegs) // (_BATCH // ORIENTATIONS) * _BATCH / (time.perf_counter() - started)


class _Utilisation:
    """Sample the utilisation of the GPU in percent, five times per second, while the block runs."""

    def __init__(self) -> None:
        self.samples: list[int] = []

    def __enter__(self) -> "_Utilisation":
        query = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
        self._process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self.samples = [int(line) for line in self._process.communicate()[0].split() if line.isdigit()]

    def share(self) -> float:
        """Return the mean from the first sample above 0 to the last; 0 if there is none."""
        busy = [index for index, sample in enumerate(self.samples) if sample > 0]
        return statistics.mean(self.samples[busy[0] : busy[-1] + 1]) / 100 if busy else 0.0
