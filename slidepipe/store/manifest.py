"""``manifest.json``: what a RESULTS folder was made from and with, and how each slide fared."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slidepipe.errors import ResultsError
from slidepipe.paths import absolute
from slidepipe.samples.sample import WellSlide

MANIFEST = "manifest.json"

_NUMBER = (int, float)
#: What a run goes on from, and what kind of value each is: of the manifest, of each slide, of each slide that was opened.
_OF_WELL: dict[str, Any] = {"well": str, "slides": list, "objects": int, "accepted": int, "tables": (str, type(None))}
_OF_SLIDE: dict[str, Any] = {"path": str, "well": str, "depth_m": (*_NUMBER, type(None)), "sample_type": str}
_OF_OPENED: dict[str, Any] = {
    "identity": str, "vendor": str, "width_px": int, "height_px": int, "mpp_x": _NUMBER, "mpp_y": _NUMBER,
    "objective_power": (*_NUMBER, type(None)), "bounds": list,
}  # fmt: skip


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a RESULTS folder; empty where there is none.

    Raises:
        ResultsError: it is damaged, or lacks what this version goes on from.
    """
    path = out / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"{path}: cannot be read ({error}). Give another --out, or remove this file to start over"
        ) from error
    if not isinstance(manifest, dict) or "slidepipe" not in manifest:
        raise ResultsError(f"{path}: not a manifest of slidepipe. Give another --out")
    slides = manifest.get("slides", [])
    if not isinstance(slides, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("slide_id"), str) for entry in slides
    ):
        raise _damaged(out, "'slides' is not a list of slides")
    if "well" in manifest:  # what was gathered by hand, to be looked at only, names none
        known_slides(out, manifest)
    return manifest


def known_slides(out: Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The slides that a manifest lists, each with all that a run goes on from.

    Raises:
        ResultsError: something is missing or of another kind.
    """
    wrong = _find_wrong(manifest, _OF_WELL)
    if wrong:
        raise _damaged(out, wrong)
    slides: list[dict[str, Any]] = manifest["slides"]
    for entry in slides:
        wrong = _find_wrong(entry, {**_OF_SLIDE, **(_OF_OPENED if "identity" in entry else {})})
        if wrong:
            raise _damaged(out, f"{wrong} of slide {entry['slide_id']}")
    return slides


def _find_wrong(record: Mapping[str, Any], kinds: Mapping[str, Any]) -> str:
    for key, kind in kinds.items():
        if key not in record:
            return f"no '{key}'"
        if not isinstance(record[key], kind):
            return f"a strange '{key}'"
    return ""


def _damaged(out: Path, wrong: str) -> ResultsError:
    return ResultsError(
        f"{out / MANIFEST}: written by another version or damaged ({wrong}). "
        "Give another --out, or remove this file to start over"
    )


def check_same_well(out: Path, slides: Sequence[WellSlide]) -> None:
    """Refuse a folder that holds something else than results of these slides' well.

    Raises:
        ResultsError: another well's results, or foreign files.
    """
    manifest = read_manifest(out)
    if not manifest:
        # A run killed before its first manifest leaves only a store behind.
        foreign = sorted(
            entry.name for entry in out.iterdir() if entry.name != "slides" and not entry.name.startswith(".")
        )
        if foreign:
            raise ResultsError(
                f"{out}: holds files that are not slidepipe's ({foreign[0]}). Give an empty folder to --out"
            )
        return
    known = known_slides(out, manifest)
    before = {entry["slide_id"]: entry["well"] for entry in known}
    now = {slide.slide_id: slide.sample.well for slide in slides}
    wells = ", ".join(sorted(set(before.values())))
    # A well's name that was mistyped and is mended: the slides themselves are the same.
    files = {entry["slide_id"]: entry["path"] for entry in known}
    same = any(files.get(slide.slide_id) == str(absolute(slide.path)) for slide in slides)
    if not same and not set(before.values()) & set(now.values()):
        raise ResultsError(f"{out}: holds the results of another well ({wells}). Give another --out")
    if not set(before) & set(now):
        raise ResultsError(
            f"{out}: holds results of other slides of {wells}, none of those given now. Give another --out"
        )
