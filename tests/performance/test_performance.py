"""The benchmarks' scripts: that they run on a small scale, give the figures they promise, and count what they say they count."""

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


def test_the_table_holds_rows_verdicts_and_what_was_left_out(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    rows = [figures.at_most("slow", 5.0, 4.0), figures.at_least("quick", 30.0, 25.0, "{:.0f}", "beside")]
    measured = figures.Measured(rows, {"ratio": 5.0}, ["no data"])
    figures.save("detect", measured, figures.machine(), 1.0, tmp_path)
    figures.write_table(["detect", "absent"], tmp_path, readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| slow | 5.00 |  | at most 4.00 | **no** |" in text
    assert "| quick | 30 | beside | at least 25 | yes |" in text
    assert "- detect: no data" in text
    record = json.loads((tmp_path / "detect.json").read_text())
    assert record["figures"] == {"ratio": 5.0}
    assert {"date", "processor", "cores", "versions"} <= record["machine"].keys()


def test_a_readme_without_markers_is_refused(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        figures.write_table([], tmp_path, readme)
    assert readme.read_text() == "no markers"


def test_without_the_real_data_the_bench_says_what_it_left_out(
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
    assert capsys.readouterr().out.count("left out") == len(stages)


def test_an_unknown_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["flying"])
    assert "unknown stage flying" in capsys.readouterr().err


def test_the_floor_of_detection_reads_every_pixel_of_the_level(disc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_today_finds_a_plain_object_and_drops_two_whose_boxes_overlap(disc: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    (box,) = today.find_as_today(disc)
    assert np.abs(box - [410, 410, 590, 590]).max() < 60  # a blur of 127 px moves edges
    pair = tmp_path / "1_2-3 200 mDC.svs"
    drawn.svs(pair, drawn.field(2048, 2048, [(600, 600, 90, drawn.BROWN), (1400, 1400, 90, drawn.BROWN)]))
    assert len(today.find_as_today(pair)) == 2
    overlapping = np.array([[0, 0, 10, 10], [9, 9, 20, 20], [30, 30, 40, 40]], float)
    assert today._alone(overlapping).tolist() == [[30, 30, 40, 40]]


def test_tiles_of_a_read_are_those_it_touches_within_the_level(disc: Path) -> None:
    with open_slide(disc) as slide:
        level = slide.meta.levels[0]
    assert list(stage_crop.tiles_of(level, 250, 0, 10, 256)) == [(0, 0, 0), (0, 1, 0)]
    assert list(stage_crop.tiles_of(level, -20, 1000, 30, 500)) == [(0, 0, 3)]


def test_a_tile_counts_as_decoded_again_once_the_cache_has_dropped_it() -> None:
    one, two, three = (0, 0, 0), (0, 1, 0), (0, 2, 0)
    room_for_two = 2 * 4 * made_scans.TILE_PX**2
    assert list(stage_crop.decoded([one, two, one, three, one, two], room_for_two)) == [one, two, three, two]


def test_cropping_is_measured_on_a_small_scan() -> None:
    measured = stage_crop.measure(scale.TINY)
    found = measured.figures
    assert found["objects"] > 20
    assert found["tiles_decoded"] >= found["tiles_touched"] > 0
    assert found["ms_an_object"].keys() == {"reading", "cutting", "cutting and encoding"}
    counted = found["bytes_read_against_once"]
    # Two counts of one thing: from the rectangles, and from the kernel, which also sees the header read.
    assert counted is None or counted == pytest.approx(found["decodes_a_tile"], abs=0.15)


def test_storing_publishes_what_a_run_stored_once_more(tmp_path: Path) -> None:
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
def test_the_slope_of_a_power_is_its_exponent(exponent: float, factor: float) -> None:
    sizes = [0.1, 0.4, 1.6, 6.4]
    assert growth.slope(sizes, [factor * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-9)
    assert math.isnan(growth.slope([1.0], [1.0]))


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_dense_blocks_are_as_many_as_asked(columns: int, rows: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, columns * rows))
    is_dense = made_scans.spread(count, columns, rows)
    assert sum(is_dense(column, row) for row in range(rows) for column in range(columns)) == count


def test_jobs_of_two_processes_are_timed_together() -> None:
    measured = timing.at_once(stage_embed.waiting_loop, [([], 8), ([], 8)], 2)
    assert measured.runs == 2
    # Both start together: the pair takes as long as its slower one, not as long as starting two processes.
    assert 0 < measured.wall_s < 1


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    assert timing.run_slidepipe(["--help"], tmp_path).wall_s > 0
    with pytest.raises(RuntimeError, match="No such command"):
        timing.run_slidepipe(["flee"], tmp_path)
