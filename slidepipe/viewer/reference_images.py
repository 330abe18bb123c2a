"""Images of the reference set: files of its folder, or stored crops of objects that reviewers labelled."""

from pathlib import Path

from slidepipe.errors import SlidepipeError
from slidepipe.results import Results
from slidepipe.review.references import object_of_file
from slidepipe.viewer.results_index import ResultsIndex


def reference_jpeg(index: ResultsIndex, name: str) -> bytes:
    """Return the image of a reference as it is stored.

    Args:
        index: the tables of the run that used the reference.
        name: `reference` of a neighbour in the table of objects.

    Returns:
        The bytes of the file. Empty if the image is gone, or if it lies outside the folders that the run took references from.
    """
    reviewed = object_of_file(name)
    if reviewed is None:
        path = _allowed_path(index, name)
        return path.read_bytes() if path is not None and path.is_file() else b""
    results, object_id = reviewed
    if _allowed_path(index, str(results)) is None:
        return b""
    try:
        return Results(results).jpeg(object_id)
    except (
        SlidepipeError,
        LookupError,
    ):  # The folder was moved, or written again with fewer objects: the image is gone.
        return b""


def may_have_image(index: ResultsIndex, name: str) -> bool:
    """Return whether the file or the RESULTS folder of a reference is there. Faster than `reference_jpeg`."""
    reviewed = object_of_file(name)
    path = _allowed_path(index, name if reviewed is None else str(reviewed[0]))
    return path is not None and (path.is_file() if reviewed is None else path.is_dir())


def short_name(name: str) -> str:
    """Return the folder and file of a reference, without their place on this machine."""
    reviewed = object_of_file(name)
    return "/".join(Path(name).parts[-2:]) if reviewed is None else f"{reviewed[0].name}: {reviewed[1]}"


def _allowed_path(index: ResultsIndex, name: str) -> Path | None:
    """Return the path if it lies in a folder that the run took references from, otherwise None."""
    manifest = index.results.manifest
    reviewed = manifest.settings.get("reference_results") or []
    root = Path(manifest.reference.folder)
    path = (root / name).resolve()
    allowed = any(path.is_relative_to(Path(str(folder)).resolve()) for folder in (root, *reviewed))
    return path if allowed else None
