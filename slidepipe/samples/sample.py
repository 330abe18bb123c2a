"""Samples, their types, the marker spores added to them, and the slides made from them."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path


@dataclass(frozen=True)
class SampleType:
    """A way in which a sample was taken from the well.

    Attributes:
        code: Code at the end of a scan's name, in upper case: "DC" in "6407_6-5 1200 mDC.svs".
        meaning: Name of the type, for the legend of the chart.
        in_place: True where the fossils come from the depth of the sample. Cuttings cave: they may come from above.
        marker: Matplotlib marker of the sample in the chart.
    """

    code: str
    meaning: str
    in_place: bool
    marker: str


#: All sample types. A new type is one line here: the names of scans, the ranges and the chart use this list. A type in
#: samples.csv that is not in this list is accepted, and counts as not in place.
SAMPLE_TYPES = (
    SampleType("DC", "ditch cuttings", in_place=False, marker="o"),
    SampleType("SWC", "sidewall core", in_place=True, marker="^"),
    SampleType("C", "core chip", in_place=True, marker="s"),
    SampleType("CC", "conventional core", in_place=True, marker="D"),
)

_TYPES = {sample_type.code: sample_type for sample_type in SAMPLE_TYPES}


def sample_type_of(code: str) -> SampleType:
    """Return the sample type of a code. A code that is not in `SAMPLE_TYPES` gives a type that may have caved.

    Args:
        code: The code in upper case, or "" where the type is not known.
    """
    return _TYPES.get(code) or SampleType(code, "type not known", in_place=False, marker="p")


@dataclass(frozen=True)
class Sample:
    """Where the material of a slide comes from.

    Attributes:
        well: Name of the well, for example "6407/6-5".
        depth_m: Depth in metres, or None where the name of a single slide does not give it.
        sample_type: Code of the sample type, as in `SAMPLE_TYPES`; "" where it is not known.
    """

    well: str
    depth_m: Decimal | None
    sample_type: str

    @property
    def sample_id(self) -> str:
        """Well, depth without trailing zeros, and type: "6407/6-5 1430.43 mC"."""
        if self.depth_m is None:
            return self.well
        return f"{self.well} {self.depth_m.normalize():f} m{self.sample_type}".strip()

    @property
    def is_in_place(self) -> bool:
        """True where the fossils come from the depth of the sample."""
        return sample_type_of(self.sample_type).in_place


@dataclass(frozen=True)
class Spike:
    """Marker spores added to a sample, to compute fossils per gram of rock.

    Attributes:
        tablets: Number of tablets.
        spores_per_tablet: Mean number of spores in a tablet.
        spores_sd: Standard deviation of that number, for one tablet.
        grams: Mass of the rock in grams.
    """

    tablets: float
    spores_per_tablet: float
    spores_sd: float
    grams: float


@dataclass(frozen=True)
class WellSlide:
    """A slide of a well.

    Attributes:
        slide_id: Path below the folder of the well, without the suffix.
        path: The file of the scan.
        sample: The sample that the slide was made from.
        mpp: Micrometres per level-0 pixel given by the user, or None for the resolution in the file.
        spike: The marker spores of the sample, or None.
    """

    slide_id: str
    path: Path
    sample: Sample
    mpp: float | None = None
    spike: Spike | None = None
