"""The whole run compared with the lower bounds of its stages, and the cost of start-up, Dask and storing.

The run is `slidepipe run` on the composite wells' scans with MobileNetV1 and one worker per core. The reference set is
embedded in advance. The lower bounds, each measured alone on all cores, are reading and detecting (one process per core,
scans distributed in turn), and the fastest bare forward loop of `stage_embed` over as many images as the run embeds (objects
x 8 orientations).
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import yaml
import zarr

from performance.figures import Measured, Row, at_most
from performance.made_scans import write_barren
from performance.scale import NO_DATA, Scale, composite_slides, data_folder
from performance.stage_detect import detect_slide
from performance.stage_embed import NAME, ORIENTATIONS, SETTINGS, fastest_loop, time_bare_loop, weights_of
from performance.timing import ROOT, Ran, at_once, clocked, run_slidepipe
from slidepipe.pipeline.engine import Engine, Task
from slidepipe.store.arrays import read_array, write_embeddings, write_jpegs
from slidepipe.store.slide_store import SlideStore

REFERENCE = ROOT / "sample_slides" / "reference"
#: Reference images per genus in the run with MobileNetV1; enough for the default alpha.
REFERENCE_IMAGES = 12
#: Number of images on which the fastest bare loop is chosen.
_CHOICE_IMAGES = 512


def measure(scale: Scale) -> Measured:
    """Measure the run with MobileNetV1, start-up, Dask and storing."""
    measured = Measured()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _start_up(root, scale, measured)
        _dask(scale, measured)
        data = data_folder()
        if data is None or not weights_of(data).exists():
            measured.skipped.append(f"the run with MobileNetV1: {NO_DATA} with its weights")
        else:
            _mobilenet(root, data, scale, measured)
    return measured


def _start_up(root: Path, scale: Scale, measured: Measured) -> None:
    cache, well = root / "cache", root / "barren"
    well.mkdir()
    write_barren(well / "1_2-3 100 mDC.svs")

    def run(number: int) -> Ran:
        out = root / f"barren-{number}"
        return run_slidepipe(["run", well, "--out", out, "--reference", REFERENCE], cache=cache)

    run(0)  # fills Python's compiled files and the page cache
    runs = [run(number) for number in range(1, scale.repeats + 1)]
    helps = [run_slidepipe(["--help"], cache=cache) for _ in range(scale.repeats + 1)][1:]
    cpu, wall = statistics.median(ran.cpu_s for ran in runs), statistics.median(ran.wall_s for ran in runs)
    shown = statistics.median(ran.wall_s for ran in helps)
    imports, _ = clocked(lambda: run_python("import slidepipe.pipeline.flow, slidepipe.report"))
    measured.figures["start-up"] = {
        "barren_cpu_s": cpu,
        "barren_wall_s": wall,
        "imports_of_the_parent_wall_s": imports,
        "help_wall_s": shown,
        "runs": len(runs),
    }
    compared = f"wall {wall:.1f} s; starting Python and the parent's imports {imports:.1f} s of it"
    measured.rows.append(at_most("empty slide of 6144 px, start to finish, s of CPU", cpu, 8, "{:.1f}", compared))
    measured.rows.append(at_most("slidepipe --help, s", shown, 0.4))


def run_python(code: str) -> None:
    """Run `code` in a new Python process."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths})


def nothing(number: int) -> int:
    """Do nothing."""
    return number


def _dask(scale: Scale, measured: Measured) -> None:
    count = 200 * scale.repeats
    with Engine("local", os.cpu_count()) as engine:
        engine.map([Task(nothing, (0,))])
        wall, cpu = clocked(lambda: engine.map(Task(nothing, (number,)) for number in range(count)))
    measured.figures["dask"] = {
        "tasks": count,
        "wall_ms_a_task": 1000 * wall / count,
        "parent_cpu_ms_a_task": 1000 * cpu / count,
    }
    measured.rows.append(Row("Dask: ms a task that does nothing", f"{1000 * wall / count:.2f}"))


def detect_scans(paths: list[Path]) -> Callable[[], object]:
    """Return the detection of some scans, ready to start."""
    return lambda: [detect_slide(path) for path in paths]


def _mobilenet(root: Path, data: Path, scale: Scale, measured: Measured) -> None:
    cores = os.cpu_count() or 1
    weights, cache = weights_of(data), root / "cache-mobilenet"
    well, config = _copied_well(root, data, scale), root / "mobilenet.yaml"
    settings = {
        "reference": str(_small_reference(root)),
        "backbone": {"name": NAME, "weights": str(weights), "orientations": ORIENTATIONS, "settings": SETTINGS},
    }
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    # A run that finds objects embeds the reference set; the others read it from the cache.
    first = next(path for path in sorted(well.iterdir()) if path.suffix == ".svs")
    run_slidepipe(["run", first, "--config", config, "--out", root / "warm"], cache=cache)
    barren = run_slidepipe(["run", root / "barren", "--config", config, "--out", root / "empty"], cache=cache)
    ran = run_slidepipe(
        ["run", well, "--config", config, "--out", root / "results", "--workers", str(cores)], cache=cache
    )
    objects = int(json.loads((root / "results" / "manifest.json").read_text(encoding="utf-8"))["objects"])
    paths = sorted(path for path in well.iterdir() if path.suffix in (".svs", ".mrxs"))
    detecting = at_once(detect_scans, [(paths[index::cores],) for index in range(cores)], scale.repeats)
    loop, _ = fastest_loop(weights, _CHOICE_IMAGES if scale.repeats > 1 else ORIENTATIONS, 1)
    # The loop takes as long as the run, so it runs once.
    forward = time_bare_loop(weights, loop, max(1, objects * ORIENTATIONS), 1)
    storing = _storing(root / "results", root)
    floor = detecting.wall_s + forward.wall_s
    measured.figures["run with MobileNetV1"] = {
        "slides": len(paths),
        "objects": objects,
        "images": objects * ORIENTATIONS,
        "wall_s": ran.wall_s,
        "cpu_s": ran.cpu_s,
        "detecting": vars(detecting),
        "forward": vars(forward),
        "forward_loop": vars(loop),
        "times_floor": ran.wall_s / floor,
        "start_up_wall_s": barren.wall_s,
        "storing_again_wall_s": storing,
    }
    compared = (
        f"{objects} objects, {len(paths)} scans: {ran.wall_s:.1f} s; detecting {detecting.wall_s:.1f} s, bare forward loop "
        f"{forward.wall_s:.1f} s ({loop.processes} processes of {loop.threads} threads, batches of {loop.batch})"
    )
    rows = [
        at_most("whole run with MobileNetV1, times the sum of its floors", ran.wall_s / floor, 1.15, floor=compared),
        Row("start-up: the same run on an empty slide, s", f"{barren.wall_s:.1f}", f"{barren.cpu_s:.1f} s of CPU"),
        Row("storing: publishing all the run's boxes, crops and embeddings once more, s", f"{storing:.2f}"),
    ]
    measured.rows.extend(rows)


def _copied_well(root: Path, data: Path, scale: Scale) -> Path:
    """Copy the composite scans into one well, each `scale.copies` times at different depths."""
    well = root / "well"
    well.mkdir()
    depth = 1000
    for path in composite_slides(data, scale.slides):
        for _ in range(scale.copies):
            depth += 10
            target = well / f"1_2-3 {depth} mDC{path.suffix}"
            shutil.copy(path, target)
            if path.suffix == ".mrxs":
                shutil.copytree(path.with_suffix(""), target.with_suffix(""))
    return well


def _small_reference(root: Path) -> Path:
    folder = root / "reference"
    for genus in sorted(path for path in REFERENCE.iterdir() if path.is_dir()):
        target = folder / genus.name
        target.mkdir(parents=True)
        for image in sorted(genus.iterdir())[:REFERENCE_IMAGES]:
            shutil.copy(image, target / image.name)
    return folder


def _storing(results: Path, root: Path) -> float:
    """Return the seconds of publishing the stored stages of the run again, in one process."""
    folders = sorted(path.parent for path in (results / "slides").rglob("crops") if path.is_dir())
    loaded = []
    for folder in folders:
        store = SlideStore(folder)
        crops, boxes = store.read("crops"), store.read("boxes")
        embeddings = store.read_array("embeddings", "embeddings")
        tables = {name: read_array(boxes, name) for name in ("boxes", "area_um2", "score", "cut")}
        loaded.append((read_array(crops, "jpeg"), read_array(crops, "ends"), embeddings, tables))

    def publish() -> None:
        for number, (jpeg, ends, embeddings, tables) in enumerate(loaded):
            store = SlideStore(root / "stored" / str(number))
            store.publish("boxes", "", {}, partial(_write_boxes, tables))
            store.publish("crops", "", {}, partial(write_jpegs, parts=iter([jpeg]), total_bytes=len(jpeg), ends=ends))
            store.publish("embeddings", "", {}, partial(write_embeddings, embeddings=embeddings))

    return clocked(publish)[0]


def _write_boxes(tables: dict[str, npt.NDArray[Any]], group: zarr.Group) -> None:
    for name, values in tables.items():
        group.create_array(name, data=values)
