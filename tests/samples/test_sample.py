"""Sample types."""

from slidepipe.samples.sample import SAMPLE_TYPES, sample_type_of


def test_sample_types_are_distinct() -> None:
    """No two types share a code, a meaning or a marker, so that a name and the legend of the chart are clear."""
    for values in zip(*((kind.code, kind.meaning, kind.marker) for kind in SAMPLE_TYPES), strict=True):
        assert len(set(values)) == len(SAMPLE_TYPES)


def test_unknown_sample_type_is_not_in_place() -> None:
    assert not sample_type_of("XYZ").in_place
    assert sample_type_of("SWC").in_place
