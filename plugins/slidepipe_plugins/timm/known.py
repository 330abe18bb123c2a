"""What timm says of its networks, remembered between runs: importing it takes seconds, and the parent needs no more of it."""

import contextlib
import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slidepipe.cache import cache_folder
from slidepipe.store.files import read_json, write_json

#: What of a pretrained config is asked for.
_KEPT = ("input_size", "crop_pct", "mean", "std", "hf_hub_id", "hf_hub_filename")


def remembered(architecture: str) -> dict[str, Any] | None:
    """The pretrained config of a network, if this version of timm has told it before."""
    kept = read_json(_path(architecture))
    values = kept.get("values")
    return values if kept.get("architecture") == architecture and isinstance(values, dict) else None


def remember(architecture: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what is asked for of a pretrained config, where the cache can be written; returns it."""
    kept = {name: values[name] for name in _KEPT if values.get(name) is not None}
    with contextlib.suppress(OSError):  # asked again next time
        path = _path(architecture)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"architecture": architecture, "values": kept})
    return kept


def _path(architecture: str) -> Path:
    return cache_folder() / "timm" / version("timm") / f"{hashlib.sha256(architecture.encode()).hexdigest()[:32]}.json"
