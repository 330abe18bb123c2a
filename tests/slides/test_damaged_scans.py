"""Tests with damaged scans: each is reported as failed or partial, or read completely; intact slides are counted as before."""

import itertools
import random
import struct
from collections import Counter
from pathlib import Path

import pytest

from performance import mutations, runs
from slidepipe.errors import ResolutionError, SlideError
from slidepipe.samples.discover import discover
from slidepipe.slides.reader import read_meta
from tests import drawn


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sources")
    discs = [(x, y, 80, drawn.BROWN if x < 700 else drawn.GREEN) for x in (250, 650, 1050) for y in (250, 650, 1050)]
    image = drawn.field(1280, 1280, discs)
    return drawn.svs(folder / "sound.svs", image), drawn.mirax(folder / "sound.mrxs", image)


def set_tag(path: Path, tag: int, number: int, value: int) -> None:
    """Overwrite the value of a tag of the ``number``th directory of a TIFF."""
    data = bytearray(path.read_bytes())
    (at,) = struct.unpack_from("<I", data, 4)
    for _ in range(number):
        (entries,) = struct.unpack_from("<H", data, at)
        (at,) = struct.unpack_from("<I", data, at + 2 + 12 * entries)
    (entries,) = struct.unpack_from("<H", data, at)
    entry = next(
        at + 2 + 12 * index for index in range(entries) if struct.unpack_from("<H", data, at + 2 + 12 * index)[0] == tag
    )
    struct.pack_into("<I", data, entry + 8, value)
    path.write_bytes(data)


WIDTH, TILE_HEIGHT = 256, 323


@pytest.mark.parametrize(
    ("tag", "number", "value", "message"),
    [
        (WIDTH, 0, 2**31 - 1, "cannot be opened"),
        (WIDTH, 0, 2**20, "has not the shape of level 0"),
        (
            WIDTH,
            0,
            1280 + 256,
            "has not the shape of level 0",
        ),  # every tile would be at another place, without an error
        (WIDTH, 1, 64, "has not the shape of level 0"),
        (
            TILE_HEIGHT,
            1,
            2**28,
            "tiles of 256 x 268435456 px in level 1 are not possible",
        ),  # OpenSlide would end the process
    ],
)
def test_implausible_header(
    sources: tuple[Path, Path], tmp_path: Path, tag: int, number: int, value: int, message: str
) -> None:
    path = mutations.copy_slide(sources[0], tmp_path / "scan.svs")
    set_tag(path, tag, number, value)
    with pytest.raises(SlideError, match=message):
        read_meta(path)


def test_scan_larger_than_glass(tmp_path: Path) -> None:
    path = drawn.svs(tmp_path / "scan.svs", drawn.field(512, 512), factors=(1,))
    set_tag(path, WIDTH, 0, 2**22)
    with pytest.raises(SlideError, match=r"make 1049 x 0 mm, more than any glass slide"):
        read_meta(path)


def test_damaged_header_text(sources: tuple[Path, Path], tmp_path: Path) -> None:
    """A header that lost its text is damaged; a missing resolution is another error, which stops the run."""
    path = mutations.copy_slide(sources[0], tmp_path / "scan.svs")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Aperio Image", b"Bperio Image"))
    with pytest.raises(SlideError, match="names neither Aperio as its format nor a resolution") as caught:
        read_meta(path)
    assert not isinstance(caught.value, ResolutionError)  # which would stop the whole run
    assert read_meta(path, 0.25).mpp == 0.25
    path.write_bytes(data.replace(b"|MPP = 0.2500", b"|MPP = 0.2\xff0\xfe"))  # no UTF-8
    with pytest.raises(SlideError):
        read_meta(path)


def test_mutations_change_their_part(sources: tuple[Path, Path], tmp_path: Path) -> None:
    """A mutation of the tiles changes only bytes of tiles."""
    data = sources[0].read_bytes()
    ranges = mutations.ranges_of(sources[0])
    covered = sorted(range_ for ranges_ in ranges.values() for range_ in ranges_)
    assert sum(stop - start for start, stop in covered) == len(data)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(covered))
    assert any(b"Aperio" in data[start:stop] for start, stop in ranges["header"])
    assert not any(b"Aperio" in data[start:stop] for start, stop in ranges["tiles"])
    for seed in range(20):
        path = mutations.copy_slide(sources[0], tmp_path / f"{seed}.svs")
        mutations.mutate(path, "tiles flipped", random.Random(seed))
        changed = [at for at, (old, new) in enumerate(zip(data, path.read_bytes(), strict=True)) if old != new]
        assert changed
        assert all(any(start <= at < stop for start, stop in ranges["tiles"]) for at in changed)


@pytest.mark.slow
def test_well_of_damaged_slides(sources: tuple[Path, Path], tmp_path: Path, test_plugins: Path) -> None:
    """Every damaged slide is reported, and the other slides give the same rows as without them."""
    (tmp_path / "settings.yaml").write_text(
        f"reference: {drawn.reference(tmp_path / 'reference', 6)}\n"
        f"plugins: [{test_plugins}, {test_plugins.with_name('counting_plugins.py')}]\n"
        "backbone: {name: mean-colour, orientations: 1}\n"
        "head: {name: nearest-mean}\n"
        "run: {scheduler: local, workers: 2}\n"
    )
    options = ("--config", str(tmp_path / "settings.yaml"))
    plan = runs.RunPlan(mutations.make_healthy(tmp_path / "healthy", sources), options, tmp_path / "cache")
    ended = runs.finish(plan, tmp_path / "healthy-out", tmp_path / "log", timeout_s=120)
    assert ended.status == 0, ended.output
    wanted = mutations.healthy_bytes(tmp_path / "healthy-out", sources)
    assert [len(part) for part in wanted] == [4, 18]

    kinds = list(mutations.KINDS)
    well = mutations.make_healthy(tmp_path / "well", sources)
    damaged = mutations.make_damaged(well, sources, kinds, 2 * len(kinds), random.Random(7))
    plan = runs.RunPlan(well, options, tmp_path / "cache")
    ended = mutations.run_damaged(plan, tmp_path / "out", damaged, timeout_s=120, preexec_fn=runs.obey_modes)
    assert ended.status == 1, ended.output
    assert "Traceback" not in ended.output
    mutations.judge(tmp_path / "out", damaged, mutations.twin_rows(tmp_path / "healthy-out"))
    assert [slide for slide in damaged if slide.outcome in mutations.WRONG] == []
    outcomes = Counter(slide.outcome for slide in damaged)
    assert outcomes["failed"] >= 6
    assert outcomes["partial"] >= 1
    assert all(slide.outcome == "failed" for slide in damaged if slide.kind in ("empty", "missing", "forbidden"))
    assert mutations.healthy_bytes(tmp_path / "out", sources) == wanted


def test_missing_slide_file_is_listed(sources: tuple[Path, Path], tmp_path: Path) -> None:
    """A slide whose file is missing or is a folder is still listed."""
    well = mutations.make_healthy(tmp_path / "well", sources)
    (svs,) = well.glob("*.svs")
    (mirax,) = well.glob("*.mrxs")
    svs.unlink()
    svs.mkdir()
    mirax.unlink()  # its data folder is still there
    assert sorted(slide.path for slide in discover(well)) == [svs, mirax]
    with pytest.raises(SlideError, match="a folder, not a slide"):
        read_meta(svs)
    with pytest.raises(SlideError, match="no such file"):
        read_meta(mirax)
