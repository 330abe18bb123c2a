"""A cache of pretrained configs of timm. Importing timm takes seconds, and the main process needs only the configs."""

import contextlib
import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slidepipe.cache import cache_folder
from slidepipe.store.files import read_json, write_json

#: The values of a pretrained config that are stored.
_KEPT = ("input_size", "crop_pct", "mean", "std", "hf_hub_id", "hf_hub_filename")


def read_config(architecture: str) -> dict[str, Any] | None:
    """Return the pretrained config of a network, or None if it is not in the cache for this version of timm."""
    kept = read_json(_path(architecture))
    values = kept.get("values")
    return values if kept.get("architecture") == architecture and isinstance(values, dict) else None


def store_config(architecture: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Store the needed values of a pretrained config in the cache, if it is writable. Return these values."""
    kept = {name: values[name] for name in _KEPT if values.get(name) is not None}
    with contextlib.suppress(OSError):  # timm is asked again the next time
        path = _path(architecture)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"architecture": architecture, "values": kept})
    return kept


def _path(architecture: str) -> Path:
    return cache_folder() / "timm" / version("timm") / f"{hashlib.sha256(architecture.encode()).hexdigest()[:32]}.json"
