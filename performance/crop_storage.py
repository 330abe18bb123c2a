"""Crop storage formats: bytes per object and the change of the embedding.

    python performance/crop_storage.py RESULTS

RESULTS is a finished run whose slides are still available. Its objects are cut again, stored in each format, read back, and
embedded with the backbone of the run on the CPU.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from slidepipe.config import parse_config
from slidepipe.crops.cut import CropSpec, cut_crop
from slidepipe.embedding.embed import embed_crops
from slidepipe.interfaces import UInt8Array
from slidepipe.pipeline.specs import embed_spec
from slidepipe.pipeline.tasks import get_backbone
from slidepipe.plugins import register_files
from slidepipe.results import Results
from slidepipe.slides.reader import open_slide

_SPEC = CropSpec(margin=0.0, long_side_px=256, jpeg_quality=100)


def _jpeg(quality: int) -> Callable[[UInt8Array], bytes]:
    return lambda crop: _saved(crop, "JPEG", quality=quality, subsampling=0)


def _saved(crop: UInt8Array, form: str, **how: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(crop).save(out, form, **how)
    return out.getvalue()


WAYS: dict[str, Callable[[UInt8Array], bytes]] = {
    "JPEG 80": _jpeg(80),
    "JPEG 92 (slidepipe's)": _jpeg(92),
    "JPEG 97": _jpeg(97),
    "WebP lossless": lambda crop: _saved(crop, "WEBP", lossless=True, method=4),
    "PNG": lambda crop: _saved(crop, "PNG"),
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument(
        "--objects", type=int, default=300, help="number of objects, taken from the start of each slide's table"
    )
    arguments = parser.parse_args()
    results = Results(arguments.results)
    config = parse_config(results.manifest.settings, str(arguments.results))
    register_files(config.plugins)
    embed = embed_spec(config)
    backbone = get_backbone(embed.plugin, "cpu")
    crops: list[UInt8Array] = []
    slides = results.manifest.slides
    for record in slides:
        own = results.objects[results.objects["slide_id"] == record.slide_id]
        with open_slide(Path(record.path), record.opened.mpp_x) as slide:
            boxes = own[["x0", "y0", "x1", "y1"]].to_numpy()[: arguments.objects // len(slides)]
            crops += [cut_crop(slide, box, _SPEC) for box in boxes]
    names = [str(number) for number in range(len(crops))]
    raw = embed_crops(backbone, crops, names, embed.orientations, embed.batch, embed.isolate)
    spread = np.median(np.linalg.norm(raw - raw.mean(axis=0), axis=1))
    print(f"{len(crops)} crops, {np.mean([crop.nbytes for crop in crops]):.0f} bytes raw, backbone {backbone.name}")
    print("| format | bytes per object | ms to store | change of the embedding / spread of the crops |")
    print("|---|---|---|---|")
    for way, store in WAYS.items():
        started = time.perf_counter()
        stored = [store(crop) for crop in crops]
        cost_ms = (time.perf_counter() - started) / len(crops) * 1e3
        read = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in stored]
        drift = np.linalg.norm(
            embed_crops(backbone, read, names, embed.orientations, embed.batch, embed.isolate) - raw, axis=1
        )
        size = np.mean([len(data) for data in stored])
        print(f"| {way} | {size:.0f} | {cost_ms:.1f} | {np.median(drift) / spread:.4f} |")


if __name__ == "__main__":
    main()
