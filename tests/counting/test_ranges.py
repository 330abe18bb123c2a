from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from slidepipe.classification.object_table import ObjectTable
from slidepipe.counting.counts import SlideCount, Status, by_sample
from slidepipe.counting.ranges import RANGES_COLUMNS, SPECIMEN_COLUMNS, ranges_table, specimens_by_sample
from tests.made_results import GENERA, make, slide

Well = list[tuple[str | None, str, Status, dict[str, int]]]


def ranges(well: Well, minimum: int = 1) -> dict[str, dict[str, object]]:
    counts = [
        SlideCount(slide(f"s{number}", depth, sample_type), status, 1.0, Counter(genera))
        for number, (depth, sample_type, status, genera) in enumerate(well)
    ]
    specimens = {
        (count.slide.sample.sample_id, genus): [f"{count.slide.slide_id}:{row:05d}" for row in range(number)]
        for count in counts
        for genus, number in count.genera.items()
    }
    frame = ranges_table(by_sample(counts), specimens, GENERA, minimum)
    assert tuple(frame.columns) == RANGES_COLUMNS
    return {row["genus"]: row for row in frame.to_dict("records")}


WELL: Well = [
    ("100", "DC", "ok", {"azolla": 1}),
    ("200", "C", "ok", {"azolla": 5, "deflandrea": 12}),
    ("300", "DC", "ok", {"azolla": 2, "deflandrea": 1}),
    ("400", "DC", "ok", {}),
]


def test_base_in_cuttings_is_possibly_caved() -> None:
    """A base in cuttings is possibly caved, and the lowest core sample is given too."""
    azolla = ranges(WELL)["azolla"]
    assert (azolla["top_m"], azolla["top_specimens"], azolla["top_note"]) == ("100", 1, "shallowest sample of the well")
    assert (azolla["base_m"], azolla["base_sample_type"], azolla["base_note"]) == ("300", "DC", "possibly caved")
    assert (azolla["core_base_m"], azolla["core_base_specimens"]) == ("200", 5)
    assert (azolla["specimens"], azolla["samples"]) == (8, 3)
    assert azolla["base_object_ids"] == "s2:00000; s2:00001"


def test_minimum_specimens() -> None:
    """A top needs the minimum number of specimens."""
    genera = ranges(WELL, minimum=2)
    assert (genera["azolla"]["top_m"], genera["azolla"]["base_m"]) == ("200", "300")
    assert (genera["deflandrea"]["top_m"], genera["deflandrea"]["base_m"]) == ("200", "200")
    assert genera["deflandrea"]["base_note"] == ""  # from core
    assert str(genera["deflandrea"]["top_object_ids"]).count(";") == 9  # ten of twelve are listed
    assert genera["deflandrea"]["top_specimens"] == 12


def test_absent_genus_has_no_range() -> None:
    row = ranges(WELL)["spiniferites"]
    assert (row["specimens"], row["samples"]) == (0, 0)
    assert {row[name] for name in RANGES_COLUMNS[4:]} == {""}


def test_note_on_failed_next_sample() -> None:
    """A failed or partial sample beyond a top or base is reported in the notes."""
    row = ranges(
        [
            ("90", "DC", "partial", {}),
            ("100", "DC", "ok", {"azolla": 1}),
            ("110", "DC", "failed", {}),
            ("120", "DC", "ok", {}),
        ]
    )["azolla"]
    assert row["top_note"] == "the sample above (1/2-3 90 mDC) is partial"
    assert row["base_note"] == "possibly caved; the sample below (1/2-3 110 mDC) is failed"


def test_core_and_cuttings_at_one_depth() -> None:
    """Where core and cuttings have the same depth, the base is in core."""
    row = ranges([("100", "SWC", "ok", {"azolla": 1}), ("100", "DC", "ok", {"azolla": 4})])["azolla"]
    assert (row["base_sample_type"], row["base_note"]) == ("SWC", "deepest sample of the well")


def test_sample_without_depth_is_ignored() -> None:
    row = ranges([(None, "", "ok", {"azolla": 4})])["azolla"]
    assert (row["specimens"], row["top_m"], row["base_m"]) == (0, "", "")


depths = st.integers(50, 60).map(str)
finds = st.fixed_dictionaries({"azolla": st.integers(0, 3)})


@given(
    st.lists(st.tuples(depths, st.sampled_from(["DC", "C", "SWC"]), st.just("ok"), finds), max_size=8, min_size=1),
    st.integers(1, 4),
)
def test_finds_lie_between_top_and_base(well: Well, minimum: int) -> None:
    row = ranges(well, minimum)["azolla"]
    held: Counter[tuple[int, str]] = Counter()
    for depth, sample_type, _, genera in well:
        held[int(str(depth)), sample_type] += genera["azolla"]
    finds = {key for key, number in held.items() if number >= minimum}
    if not finds:
        assert row["top_m"] == row["base_m"] == ""
        return
    assert int(str(row["top_m"])) == min(depth for depth, _ in finds)
    assert int(str(row["base_m"])) == max(depth for depth, _ in finds)
    core = [depth for depth, sample_type in finds if sample_type in ("SWC", "C", "CC")]
    assert row["core_base_m"] == (str(max(core)) if core else "")
    assert ("possibly caved" in str(row["base_note"])) == (str(row["core_base_m"]) != str(row["base_m"]))


def test_listed_specimens_are_most_certain(tmp_path: Path) -> None:
    """The ids are those of the most certain accepted objects."""
    make(tmp_path / "r", {slide("a"): ["azolla", None, "azolla", "deflandrea", "azolla"]})
    objects = ObjectTable(tmp_path / "r").read()
    named = specimens_by_sample(ObjectTable(tmp_path / "r").read_accepted(SPECIMEN_COLUMNS))
    expected = objects[objects["genus"] == "azolla"].sort_values("p_value", ascending=False)["object_id"]
    assert named["1/2-3 100 mDC", "azolla"] == list(expected)
    assert sum(len(ids) for ids in named.values()) == 4
