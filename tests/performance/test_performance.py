"""The measurement scripts: they run at a small scale and count correctly."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from performance import (
    bench,
    figures,
    growth,
    made_scans,
    scale,
    stage_crop,
    stage_detect,
    stage_embed,
    timing,
    today,
    whole_run,
)
from slidepipe.slides.reader import open_slide
from slidepipe.store.arrays import write_embeddings, write_jpegs
from slidepipe.store.slide_store import SlideStore
from tests import drawn

README = f"before\n{figures.START}\nold\n{figures.END}\nafter\n"


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    path = tmp_path / "1_2-3 100 mDC.svs"
    drawn.svs(path, drawn.field(2048, 1024, [(500, 500, 90, drawn.BROWN)]))
    return path


def test_table_rows_verdicts_and_skipped(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    rows = [figures.at_most("slow", 5.0, 4.0), figures.at_least("quick", 30.0, 25.0, "{:.0f}", "compared")]
    measured = figures.Measured(rows, {"ratio": 5.0}, ["no data"])
    figures.save("detect", measured, figures.machine(), 1.0, tmp_path)
    figures.write_table(["detect", "absent"], tmp_path, readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| slow | 5.00 |  | at most 4.00 | **no** |" in text
    assert "| quick | 30 | compared | at least 25 | yes |" in text
    assert "- detect: no data" in text
    record = json.loads((tmp_path / "detect.json").read_text())
    assert record["figures"] == {"ratio": 5.0}
    assert {"date", "processor", "cores", "versions"} <= record["machine"].keys()


def test_readme_without_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        figures.write_table([], tmp_path, readme)
    assert readme.read_text() == "no markers"


def test_bench_without_real_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLIDEPIPE_TEST_DATA", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    readme = tmp_path / "README.md"
    readme.write_text(README)
    stages = ["detect", "today", "embed"]
    bench.main([*stages, "--tiny", "--results", str(tmp_path / "results"), "--readme", str(readme)])
    assert {path.stem for path in (tmp_path / "results").iterdir()} == set(stages)
    assert readme.read_text().count("SLIDEPIPE_TEST_DATA") == len(stages)
    assert capsys.readouterr().out.count("skipped") == len(stages)


def test_unknown_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["flying"])
    assert "unknown stage flying" in capsys.readouterr().err


def test_detection_lower_bound_reads_every_pixel(disc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, read = stage_detect.detection_grid(disc), list[int]()

    class Opened:
        def __enter__(self) -> "Opened":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read_region(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> None:
            assert level == grid.level.index
            read.append(size[0] * size[1])

    monkeypatch.setattr(openslide, "OpenSlide", lambda _: Opened())
    stage_detect.read_level(disc, grid)
    assert sum(read) == grid.width * grid.height * grid.factor**2


def test_published_method_drops_overlapping_boxes(disc: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    (box,) = today.find_as_today(disc)
    assert np.abs(box - [410, 410, 590, 590]).max() < 60  # the blur of 127 px moves edges
    pair = tmp_path / "1_2-3 200 mDC.svs"
    drawn.svs(pair, drawn.field(2048, 2048, [(600, 600, 90, drawn.BROWN), (1400, 1400, 90, drawn.BROWN)]))
    assert len(today.find_as_today(pair)) == 2
    overlapping = np.array([[0, 0, 10, 10], [9, 9, 20, 20], [30, 30, 40, 40]], float)
    assert today._alone(overlapping).tolist() == [[30, 30, 40, 40]]


def test_tiles_of_a_read(disc: Path) -> None:
    with open_slide(disc) as slide:
        level = slide.meta.levels[0]
    assert list(stage_crop.tiles_of(level, 250, 0, 10, 256)) == [(0, 0, 0), (0, 1, 0)]
    assert list(stage_crop.tiles_of(level, -20, 1000, 30, 500)) == [(0, 0, 3)]


def test_tile_decoded_again_after_eviction() -> None:
    one, two, three = (0, 0, 0), (0, 1, 0), (0, 2, 0)
    room_for_two = 2 * 4 * made_scans.TILE_PX**2
    assert list(stage_crop.decoded([one, two, one, three, one, two], room_for_two)) == [one, two, three, two]


@pytest.mark.slow
def test_measure_cropping() -> None:
    measured = stage_crop.measure(scale.TINY)
    found = measured.figures
    assert found["objects"] > 20
    assert found["tiles_decoded"] >= found["tiles_touched"] > 0
    assert found["ms_per_object"].keys() == {"reading", "cutting", "cutting and encoding"}
    counted = found["bytes_read_against_once"]
    # Two counts of the same reads; the kernel's also includes the header.
    assert counted is None or counted == pytest.approx(found["decodes_per_tile"], abs=0.15)


def test_storing_publishes_all_stages(tmp_path: Path) -> None:
    slide = SlideStore.in_results(tmp_path / "results", "slide")
    ends, embeddings = np.array([40, 100]), np.ones((2, 3), np.float32)
    jpeg = np.arange(100, dtype=np.uint8)
    tables = {"boxes": np.ones((2, 4), np.int64), "area_um2": np.ones(2), "score": np.ones(2), "cut": np.ones(2, bool)}
    slide.publish("boxes", "x", {}, partial(whole_run._write_boxes, tables))
    slide.publish("crops", "x", {}, partial(write_jpegs, parts=iter([jpeg]), total_bytes=100, ends=ends))
    slide.publish("embeddings", "x", {}, partial(write_embeddings, embeddings=embeddings))
    assert whole_run._storing(tmp_path / "results", tmp_path) > 0
    (again,) = (tmp_path / "stored").iterdir()
    assert SlideStore(again).crops().jpegs(0, 2) == slide.crops().jpegs(0, 2)


@settings(deadline=None)
@given(st.floats(-2, 2), st.floats(0.1, 100))
def test_slope_of_a_power(exponent: float, factor: float) -> None:
    sizes = [0.1, 0.4, 1.6, 6.4]
    assert growth.slope(sizes, [factor * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-9)
    assert math.isnan(growth.slope([1.0], [1.0]))


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_number_of_dense_blocks(columns: int, rows: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, columns * rows))
    is_dense = made_scans.spread(count, columns, rows)
    assert sum(is_dense(column, row) for row in range(rows) for column in range(columns)) == count


@pytest.mark.slow
def test_two_processes_timed_together() -> None:
    measured = timing.at_once(stage_embed.waiting_loop, [([], 8), ([], 8)], 2)
    assert measured.runs == 2
    # Both start together, so the pair takes as long as the slower one, without the start of the processes.
    assert 0 < measured.wall_s < 1


def test_failed_command_message(tmp_path: Path) -> None:
    assert timing.run_slidepipe(["--help"], tmp_path).wall_s > 0
    with pytest.raises(RuntimeError, match="No such command"):
        timing.run_slidepipe(["flee"], tmp_path)
