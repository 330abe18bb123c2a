"""The folder in which slidepipe keeps downloads and embedded reference sets between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: `SLIDEPIPE_CACHE` if it is set, else `slidepipe` in the user's cache folder."""
    own = os.environ.get("SLIDEPIPE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "slidepipe"
