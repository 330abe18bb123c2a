"""`manifest.json`: the inputs, settings and outcome of the run that wrote a RESULTS folder.

The models here are the only description of the file. Keys that this version does not know, for example of a later release, are
ignored. A missing key or a value of the wrong type is an error that names it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from slidepipe.errors import ResultsError
from slidepipe.paths import absolute
from slidepipe.samples.sample import Spike, WellSlide
from slidepipe.store.files import write_json
from slidepipe.store.slide_store import StageName

MANIFEST = "manifest.json"

#: Keys of a slide that are written only if it was analysed.
_OF_ANALYSED = frozenset({"objects", "area_mm2", "lost_mm2", "seconds", "fingerprints"})


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)


class ScanRecord(_Record):
    """The properties of a scan that was opened.

    Attributes:
        identity: sha256 over samples of the scan's bytes.
        vendor: scanner vendor, as OpenSlide names it.
        objective_power: magnification of the objective, or None if the scan does not record it.
        width_px: width of level 0.
        height_px: height of level 0.
        mpp_x: micrometres per level-0 pixel.
        mpp_y: micrometres per level-0 pixel.
        bounds: the scanned part: x0, y0, x1, y1, half-open, in level-0 pixels.
    """

    identity: str
    vendor: str
    objective_power: float | None
    width_px: int
    height_px: int
    mpp_x: float
    mpp_y: float
    bounds: tuple[int, int, int, int]

    @property
    def mpp(self) -> float:
        """Mean micrometres per level-0 pixel."""
        return (self.mpp_x + self.mpp_y) / 2


class SlideRecord(_Record):
    """A slide of the run. In the file, the properties of the scan stand next to the others, not in an object of their own.

    Attributes:
        slide_id: the slide.
        path: absolute path of the scan.
        sample_id: the sample of the slide.
        well: the well of the sample.
        depth_m: the depth of the sample in metres, or None if it is not known.
        sample_type: the type of the sample.
        spike: the marker spores added to the sample, or None.
        given_mpp: micrometres per pixel given by the user, or None.
        status: the outcome.
        scan: the properties of the scan, or None if it could not be opened.
        objects: number of objects, or None if the slide was not analysed.
        area_mm2: analysed area in mm2, or None.
        lost_mm2: area that could not be read in mm2, or None.
        seconds: seconds of work per stage.
        fingerprints: fingerprint per stage.
    """

    slide_id: str
    path: str
    sample_id: str
    well: str
    depth_m: float | None
    sample_type: str
    spike: Spike | None = None
    given_mpp: float | None = None
    status: Literal["ok", "partial", "failed"]
    scan: ScanRecord | None = None
    objects: int | None = None
    area_mm2: float | None = None
    lost_mm2: float | None = None
    seconds: dict[str, float | None] = {}
    fingerprints: dict[StageName, str] = {}

    @property
    def opened(self) -> ScanRecord:
        """The properties of the scan, for a slide that was analysed.

        Raises:
            ResultsError: the scan could not be opened in the run.
        """
        if self.scan is None:
            raise ResultsError(f"{self.path}: the scan could not be opened in the run. See failures.csv")
        return self.scan

    @pydantic.model_validator(mode="before")
    @classmethod
    def _gather_scan(cls, values: Any) -> Any:
        if isinstance(values, dict) and "identity" in values:
            scan = {name: values[name] for name in ScanRecord.model_fields if name in values}
            return {**values, "scan": scan}
        return values

    @pydantic.model_serializer(mode="wrap")
    def _spread_scan(self, serialise: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        spread: dict[str, Any] = {}
        for name, value in serialise(self).items():
            if name == "scan":
                spread |= value or {}
            elif name not in _OF_ANALYSED or self.objects is not None:
                spread[name] = value
        return spread


class ReferenceRecord(_Record):
    """The reference set of the run.

    Attributes:
        folder: absolute path of the folder of labelled images.
        fingerprint: fingerprint of the set, with the reviewed objects that joined it.
        images: number of images.
        genera: the genera, in the order of the count tables.
    """

    folder: str
    fingerprint: str
    images: int
    genera: list[str]


class Manifest(_Record):
    """The manifest of a RESULTS folder.

    Attributes:
        slidepipe: version of slidepipe that wrote the results.
        written: time of writing (UTC, ISO 8601).
        well: absolute path of the well, as given to the run.
        settings: the settings of the run, with the keys of a configuration file.
        backbone: identity of the embedding (`slidepipe.pipeline.fingerprints`), with licence, source and sha256 of the weights.
        reference: the reference set.
        objects: number of objects.
        accepted: number of objects of a known genus.
        slides: the slides of the run.
        tables: fingerprint of the tables, or None while they are being written: they may then be of different runs.
    """

    slidepipe: str
    written: str
    well: str
    settings: dict[str, Any]
    backbone: dict[str, Any]
    reference: ReferenceRecord
    objects: int
    accepted: int
    slides: list[SlideRecord]
    tables: str | None

    @property
    def slides_by_id(self) -> dict[str, SlideRecord]:
        """The slides of the run, by slide id."""
        return {slide.slide_id: slide for slide in self.slides}

    def write(self, results: Path) -> None:
        """Write the manifest of the folder `results`. The file is replaced as a whole."""
        write_json(results / MANIFEST, self.model_dump(mode="json"))


def read_manifest(results: Path) -> Manifest | None:
    """Return the manifest of a RESULTS folder, or None if it has none.

    Raises:
        ResultsError: the file cannot be read, is not a manifest, or lacks something.
    """
    path = results / MANIFEST
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"{path}: cannot be read ({error}). Give another --out, or remove this file to start over"
        ) from error
    try:
        return Manifest.model_validate(values)
    except pydantic.ValidationError as error:
        raise ResultsError(
            f"{path}: written by another version or damaged ({_first_fault(error, values)}). "
            "Give another --out, or remove this file to start over"
        ) from error


def _first_fault(error: pydantic.ValidationError, manifest: Any) -> str:
    """Return the first fault of a manifest in words."""
    slides = manifest["slides"] if isinstance(manifest, dict) and isinstance(manifest.get("slides"), list) else []
    fault = error.errors()[0]
    place = fault["loc"]
    key = str(place[-1]) if place and isinstance(place[-1], str) else "slides"
    slide = ""
    if len(place) > 2 and place[0] == "slides":
        slide = f" of slide {slides[int(place[1])].get('slide_id', place[1])}"
    return f"no '{key}'{slide}" if fault["type"] == "missing" else f"a wrong '{key}'{slide}"


def check_same_well(results: Path, slides: Sequence[WellSlide]) -> None:
    """Check that a folder is empty or holds results of the same well as the slides.

    Raises:
        ResultsError: it holds results of another well, or files that are not slidepipe's.
    """
    manifest = read_manifest(results)
    if manifest is None:
        # A run that was killed before its first manifest leaves only a store.
        foreign = sorted(
            entry.name for entry in results.iterdir() if entry.name != "slides" and not entry.name.startswith(".")
        )
        if foreign:
            raise ResultsError(
                f"{results}: holds files that are not slidepipe's ({foreign[0]}). Give an empty folder to --out"
            )
        return
    before = {record.slide_id: record.well for record in manifest.slides}
    now = {slide.slide_id: slide.sample.well for slide in slides}
    wells = ", ".join(sorted(set(before.values())))
    # If the name of the well was corrected, the paths show that the slides are the same.
    paths = {record.slide_id: record.path for record in manifest.slides}
    same = any(paths.get(slide.slide_id) == str(absolute(slide.path)) for slide in slides)
    if not same and not set(before.values()) & set(now.values()):
        raise ResultsError(f"{results}: holds the results of another well ({wells}). Give another --out")
    if not set(before) & set(now):
        raise ResultsError(
            f"{results}: holds results of other slides of {wells}, none of those given now. Give another --out"
        )
