"""Keep slides open between the tasks of a worker.

An open slide cannot be sent to another process. A task therefore receives the path and takes the open slide of its own thread.
"""

import threading
from collections import OrderedDict
from pathlib import Path

from slidepipe.errors import SlideError
from slidepipe.slides.reader import SlideReader, identify_slide, open_slide

#: Slides that a thread keeps open: the current one and the one before it.
_OPEN_PER_THREAD = 2


class _Handles(threading.local):
    def __init__(self) -> None:
        self.open: OrderedDict[tuple[Path, float | None, str], SlideReader] = OrderedDict()


_handles = _Handles()

#: Files whose identity this process has checked.
_checked_files: set[tuple[Path, str]] = set()


def cached_slide(path: Path, mpp: float | None = None, identity: str = "") -> SlideReader:
    """Return the calling thread's open slide for `path`.

    It is opened at first use. The thread keeps the two slides that it used last and closes older ones.

    Args:
        path: The file that names the slide.
        mpp: Micrometres per level-0 pixel, as for `open_slide`.
        identity: The identity that the file must have (see `identify_slide`), or "" for any file.

    Raises:
        SlideError: The slide cannot be opened, or its identity is another one.
    """
    key = (path, mpp, identity)
    slide = _handles.open.get(key)
    if slide is None:
        if identity and (path, identity) not in _checked_files:
            if identify_slide(path) != identity:
                raise SlideError(
                    f"{path}: is not the file that the run was planned with. The file was replaced (start the run again), or "
                    "the setting 'paths' leads to another folder (correct it)"
                )
            _checked_files.add((path, identity))
        slide = open_slide(path, mpp)
        _handles.open[key] = slide
        while len(_handles.open) > _OPEN_PER_THREAD:
            _handles.open.popitem(last=False)[1].close()
    _handles.open.move_to_end(key)
    return slide
