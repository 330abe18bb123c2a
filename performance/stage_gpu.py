"""Embedding on an NVIDIA GPU: ViT-S/16 from stored crops to stored embeddings, as a run does it, beside the card's matrix rate.

A dense scan is run with the default backbone first, then again with ViT-S/16 (random weights: speed does not depend on them):
that run finds boxes and crops stored and only embeds. Its rate in floating-point operations (counted by torch's
FlopCounterMode) is set against that of a bf16 product of two large matrices on the same card. Beside it, a plain loop as users
write it: PIL opens a stored crop and resizes it, the same 8 views go through the network in float32, 64 images at a time. The
share of time that the card is busy is nvidia-smi's utilisation, from the first sample above 0 to the last.
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
from slidepipe.embedding.square import views
from slidepipe.store.arrays import CropReader
from slidepipe.store.slide_store import SlideStore

ARCHITECTURE, INPUT_PX, VIEWS = "vit_small_patch16_224", 224, 8
_MATRIX, _PLAIN_CROPS, _BATCH = 8192, 128, 64


def measure(scale: Scale) -> Measured:
    """Measure on the first card, or say that there is none."""
    import torch

    if not torch.cuda.is_available():
        return Measured(skipped=["embedding on a GPU: no GPU"])
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder), scale)


def _measure(root: Path, scale: Scale) -> Measured:
    weights, config = _random_weights(root), root / "vit.yaml"
    settings = {
        "reference": str(REFERENCE),
        "backbone": {"name": f"timm:{ARCHITECTURE}", "weights": str(weights), "views": VIEWS},
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
    images = int(stored["objects"]) * VIEWS
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
    beside = f"{rate:.0f} images a second; bf16 matrix rate {peak / 1e12:.0f} Tflop/s"
    rows = [
        at_least(
            "GPU: ViT-S/16, stored crops to stored embeddings, share of the card's bf16 matrix rate",
            share,
            0.4,
            floor=beside,
        ),
        at_least(
            "GPU: times a plain float32 loop with PIL", rate / plain, 10, "{:.1f}", f"{plain:.0f} images a second"
        ),
        at_least("GPU: share of the embed stage that the card is busy", used.share(), 0.9),
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
    """Floating-point operations of one image: a multiplication and an addition are two."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = timm.create_model(ARCHITECTURE, num_classes=0).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, INPUT_PX, INPUT_PX))
    return float(counter.get_total_flops())


def _matrix_rate(repeats: int) -> float:
    """Floating-point operations a second of a large bf16 product."""
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
    """Images a second of a loop as users write it, over the same views."""
    import timm
    import torch

    network = timm.create_model(ARCHITECTURE, num_classes=0).eval().cuda()
    jpegs = reader.jpegs(0, min(_PLAIN_CROPS, len(reader)))

    def run() -> None:
        waiting: list[Any] = []
        for jpeg in jpegs:
            image = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC)
            waiting += [view[0] for view in views(np.asarray(image)[None], VIEWS)]
            if len(waiting) >= _BATCH:
                pixels = torch.from_numpy(np.stack(waiting)).permute(0, 3, 1, 2).float().div(255).cuda()
                network(pixels).cpu()
                waiting = []

    with torch.inference_mode():
        run()
        started = time.perf_counter()
        run()
    return len(jpegs) // (_BATCH // VIEWS) * _BATCH / (time.perf_counter() - started)


class _Utilisation:
    """The card's utilisation while a block runs, in percent, five samples a second."""

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
        """Mean from the first sample above 0 to the last; 0 without one."""
        busy = [index for index, sample in enumerate(self.samples) if sample > 0]
        return statistics.mean(self.samples[busy[0] : busy[-1] + 1]) / 100 if busy else 0.0
