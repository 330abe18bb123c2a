"""Errors of the disk that RESULTS are written to."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slidepipe.errors import ResultsError


@contextmanager
def explain_disk_errors(out: Path) -> Iterator[None]:
    """Turn any error of a full or read-only disk into a message that says what to do.

    Args:
        out: the RESULTS folder.

    Raises:
        ResultsError: the disk is full, or a file below `out` cannot be written.
    """
    try:
        yield
    except OSError as error:
        if is_out_of_space(error):
            raise ResultsError(
                f"{out}: no space left on its disk. Free some space and run the same command again: finished work is kept"
            ) from error
        if error.filename is not None and Path(str(error.filename)).resolve().is_relative_to(out.resolve()):
            raise ResultsError(
                f"{error.filename}: cannot be written ({error.strerror}). Fix its permissions, or give another folder to --out"
            ) from error
        raise


def is_out_of_space(error: BaseException) -> bool:
    """Return whether an error means that the disk is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
