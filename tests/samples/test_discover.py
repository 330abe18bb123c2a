from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidepipe.errors import SlidepipeError, WellError
from slidepipe.samples.discover import discover, parse_name
from slidepipe.samples.sample import SAMPLE_TYPES, Sample


@pytest.mark.parametrize(
    ("name", "well", "depth", "sample_type"),
    [
        ("6407_6-5 1670 mDC", "6407/6-5", "1670", "DC"),
        ("6407_6-5 1430.43 mC", "6407/6-5", "1430.43", "C"),
        ("6407_6-5 1715,5 mSWC", "6407/6-5", "1715.5", "SWC"),
        ("6407_6-5 980 mDC", "6407/6-5", "980", "DC"),
        ("6407_6-5 1670mDC", "6407/6-5", "1670", "DC"),
        ("6407_6-5_1670mDC", "6407/6-5", "1670", "DC"),
        ("15_9-19 A 1200 mCC", "15/9-19 A", "1200", "CC"),
        ("15_9-19 S 12500 mDC", "15/9-19 S", "12500", "DC"),
        ("15_9-19 AT2 1200.05 mC", "15/9-19 AT2", "1200.05", "C"),
        ("2_4-1 T2 87 mDC", "2/4-1 T2", "87", "DC"),
        ("6407_6-5 1670 mDC - Copy", "6407/6-5", "1670", "DC"),
        ("6407_6-5 1670 mDC 2021-03-04 12.33.11", "6407/6-5", "1670", "DC"),
        ("6407_6-5 1670 mDC_20210304", "6407/6-5", "1670", "DC"),
        ("6407_6-5 1670 mdc (2)", "6407/6-5", "1670", "DC"),
        ("Hammerfest 7 1670 mDC", "Hammerfest 7", "1670", "DC"),
    ],
)
def test_parse_name(name: str, well: str, depth: str, sample_type: str) -> None:
    assert parse_name(name) == Sample(well, Decimal(depth), sample_type)


@pytest.mark.parametrize(
    "name", ["1670 mDC", "6407_6-5", "6407_6-5 1670", "6407_6-5 mDC", "6407_6-5 1670 mDCX", "photo", ""]
)
def test_parse_name_error(name: str) -> None:
    with pytest.raises(WellError, match="no 'WELL DEPTH mTYPE'"):
        parse_name(name)


wells = st.builds(
    lambda quadrant, block, number, tail: (f"{quadrant}_{block}-{number}{tail}", f"{quadrant}/{block}-{number}{tail}"),
    st.integers(1, 9999),
    st.integers(1, 12),
    st.integers(1, 99),
    st.sampled_from(["", " A", " S", " T2", " AT2", " B"]),
)
depths = st.tuples(st.integers(0, 12000), st.one_of(st.none(), st.integers(0, 99)))


@given(
    wells,
    depths,
    st.sampled_from(".,"),
    st.sampled_from([" ", "_", "  "]),
    st.sampled_from(["", " "]),
    st.sampled_from([sample_type.code for sample_type in SAMPLE_TYPES]),
    st.sampled_from(["", " - Copy", " - Copy (2)", " 2020-01-31 09.15.00", "_2020", " (1)"]),
)
def test_parse_name_any_form(
    well: tuple[str, str], depth: tuple[int, int | None], point: str, gap: str, space: str, sample_type: str, tail: str
) -> None:
    written = str(depth[0]) if depth[1] is None else f"{depth[0]}{point}{depth[1]:02d}"
    sample = parse_name(f"{well[0]}{gap}{written}{space}m{sample_type}{tail}")
    assert sample == Sample(well[1], Decimal(written.replace(",", ".")), sample_type)


@given(depths, depths)
def test_sample_id_follows_depth(one: tuple[int, int | None], other: tuple[int, int | None]) -> None:
    """Two names have the same sample id exactly if their depths are equal."""
    texts = [str(whole) if part is None else f"{whole}.{part:02d}" for whole, part in (one, other)]
    first, second = (parse_name(f"6407_6-5 {text} mC") for text in texts)
    assert (first.sample_id == second.sample_id) == (Decimal(texts[0]) == Decimal(texts[1]))


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def test_discover_subfolders(tmp_path: Path) -> None:
    """Subfolders are searched, and decimal depths are different samples."""
    touch(
        tmp_path,
        "6407_6-5 1430.43 mC.mrxs",
        "6407_6-5 1430.43 mC/Data0000.dat",
        "6407_6-5 1430.85 mC.mrxs",
        "more/6407_6-5 1430.43 mC.mrxs",
        "notes.pdf",
        ".hidden/6407_6-5 1 mC.svs",
    )
    slides = discover(tmp_path)
    assert [slide.slide_id for slide in slides] == [
        "6407_6-5 1430.43 mC",
        "6407_6-5 1430.85 mC",
        "more/6407_6-5 1430.43 mC",
    ]
    assert len({slide.sample.sample_id for slide in slides}) == 2


def test_discover_skips_results(tmp_path: Path) -> None:
    touch(tmp_path, "1_2-3 5 mDC.svs", "results/manifest.json", "results/slides/1_2-3 5 mDC/x 1 mDC.tif")
    assert [slide.slide_id for slide in discover(tmp_path)] == ["1_2-3 5 mDC"]


@pytest.mark.parametrize("sign", [";", "\t"])
def test_samples_csv_replaces_names(tmp_path: Path, sign: str) -> None:
    touch(tmp_path, "scan7.svs", "1_2-3 5 mDC.svs", "sub/bad.svs")
    text = (
        "slide;well;depth_m;sample_type;mpp;exclude\n"
        "scan7;1/2-3;7,25;SWC;0,5;\n"
        "1_2-3 5 mDC.svs;;;CC;;no\n"
        "sub/bad;;;;;yes\n"
    )
    (tmp_path / "samples.csv").write_text(text.replace(";", sign), encoding="utf-8-sig")
    slides = {slide.slide_id: slide for slide in discover(tmp_path, mpp=0.25)}
    assert set(slides) == {"scan7", "1_2-3 5 mDC"}
    assert slides["scan7"].sample == Sample("1/2-3", Decimal("7.25"), "SWC")
    assert slides["scan7"].mpp == 0.5
    assert slides["1_2-3 5 mDC"].sample == Sample("1/2-3", Decimal(5), "CC")
    assert slides["1_2-3 5 mDC"].mpp == 0.25


@pytest.mark.parametrize(
    ("files", "samples", "message"),
    [
        ([], None, "no slides in this folder"),
        (["photo.svs", "other.tif"], None, r"other.tif.*photo.svs.*samples.csv"),
        (["1_2-3 5 mDC.svs", "1_2-3 5 mDC.tif"], None, r"1_2-3 5 mDC.tif and 1_2-3 5 mDC.svs would both"),
        (["1_2-3 5 mDC.svs"], "slide,dpeth\n", "column 'dpeth' is unknown"),
        (["1_2-3 5 mDC.svs"], "well,depth_m\n", "no column 'slide'"),
        (["1_2-3 5 mDC.svs"], "slide,well\nnothere,1/2-3\n", "'nothere' is not in"),
        (["1_2-3 5 mDC.svs"], "slide,depth_m\n1_2-3 5 mDC,deep\n", "'deep' .* is not a number. Write it in metres"),
        (["1_2-3 5 mDC.svs"], "slide,mpp\n1_2-3 5 mDC,250\n", "250 um per pixel is not a resolution"),
        (["1_2-3 5 mDC.svs"], "slide,exclude\n1_2-3 5 mDC,perhaps\n", "neither yes nor no"),
        (["1_2-3 5 mDC.svs"], "slide,exclude\n1_2-3 5 mDC,yes\n", "every slide is excluded"),
        (["1_2-3 5 mDC.svs"], "slide,well\n1_2-3 5 mDC,1/2-3,7\n", "line 2: has more cells than the header"),
        (
            ["1_2-3 5 mDC.svs"],
            "slide,well\n1_2-3 5 mDC,1/2-3\n1_2-3 5 mDC,1/2-4\n",
            "line 3: slide .* has a row already",
        ),
    ],
)
def test_discover_errors(tmp_path: Path, files: list[str], samples: str | None, message: str) -> None:
    """Each mistake is reported in one line."""
    touch(tmp_path, *files)
    if samples is not None:
        (tmp_path / "samples.csv").write_text(samples)
    with pytest.raises(SlidepipeError, match=message) as caught:
        discover(tmp_path)
    assert "\n" not in str(caught.value)


def test_list_file(tmp_path: Path) -> None:
    """Paths in a list file are relative to the folder of the list."""
    touch(tmp_path, "a/1_2-3 5 mDC.svs", "b/1_2-3 5 mDC.svs")
    listed = tmp_path / "slides.txt"
    listed.write_text("# two\na/1_2-3 5 mDC.svs\nb/1_2-3 5 mDC.svs\n")
    assert [slide.slide_id for slide in discover(listed)] == ["a/1_2-3 5 mDC", "b/1_2-3 5 mDC"]
    listed.write_text("c/none.svs\n")
    with pytest.raises(WellError, match=r"c/none.svs does not exist"):
        discover(listed)
    listed.write_text("a\n")
    with pytest.raises(WellError, match="is a folder, not a slide"):
        discover(listed)
    listed.write_text("\n")
    with pytest.raises(WellError, match="no slides in this list"):
        discover(listed)


def test_list_file_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slide ids of a list never contain ".."."""
    touch(tmp_path, "x/y/1_2-3 5 mDC.svs", "z/1_2-3 6 mDC.svs")
    listed = tmp_path / "x" / "y" / "slides.txt"
    listed.write_text(f"../../z/1_2-3 6 mDC.svs\n{tmp_path / 'x' / 'y' / '1_2-3 5 mDC.svs'}\n")
    monkeypatch.chdir(tmp_path)
    for source in (listed, Path("x/y/slides.txt")):
        assert [slide.slide_id for slide in discover(source)] == ["x/y/1_2-3 5 mDC", "z/1_2-3 6 mDC"]


def test_single_slide_without_depth(tmp_path: Path) -> None:
    touch(tmp_path, "palyno.tif")
    (slide,) = discover(tmp_path / "palyno.tif")
    assert slide.sample == Sample("palyno", None, "")
    assert slide.sample.sample_id == "palyno"
