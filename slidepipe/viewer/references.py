"""Pictures of the reference set: files of its folder, or stored crops of objects that reviewers labelled."""

from pathlib import Path

from slidepipe.errors import SlidepipeError
from slidepipe.results import Results
from slidepipe.review.references import object_of_file
from slidepipe.viewer.well import Index


def reference_jpeg(index: Index, name: str) -> bytes:
    """The picture of a reference as it is stored, empty where it is no longer there.

    Args:
        index: the run that the reference served.
        name: its ``reference`` in the table of objects. One outside the folders that the run took references from is not read.
    """
    held = object_of_file(name)
    if held is None:
        path = _allowed(index, name)
        return path.read_bytes() if path is not None and path.is_file() else b""
    results, object_id = held
    if _allowed(index, str(results)) is None:
        return b""
    try:
        return Results(results).jpeg(object_id)
    except (SlidepipeError, LookupError):  # moved, or written again with fewer objects: as a file that is gone
        return b""


def has_picture(index: Index, name: str) -> bool:
    """Whether the picture of a reference can be looked for; cheaper than to read it."""
    held = object_of_file(name)
    path = _allowed(index, name if held is None else str(held[0]))
    return path is not None and (path.is_file() if held is None else path.is_dir())


def shown_name(name: str) -> str:
    """A reference in words: its folder and file, not where these lie on this machine."""
    held = object_of_file(name)
    return "/".join(Path(name).parts[-2:]) if held is None else f"{held[0].name}: {held[1]}"


def _allowed(index: Index, name: str) -> Path | None:
    """The path, if it lies in a folder that the run took references from."""
    manifest = index.results.manifest
    reviewed = manifest.get("settings", {}).get("reference_results") or []
    root = Path(str(manifest["reference"].get("folder", "")))
    path = (root / name).resolve()
    allowed = any(path.is_relative_to(Path(str(folder)).resolve()) for folder in (root, *reviewed))
    return path if allowed else None
