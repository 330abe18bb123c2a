"""The exceptions of slidepipe, all derived from `SlidepipeError`.

A message has three parts: the file or setting, what is wrong with it, and how to fix it. The command line prints it in one line
and ends with exit status 2. A run records the `SlideError` of a slide in `failures.csv` and continues with the other slides.
"""


class SlidepipeError(Exception):
    """An error that the user can fix: wrong input or settings, or a missing file."""


class SettingsError(SlidepipeError):
    """A setting is unknown, has the wrong type, or does not suit the data."""


class SlideError(SlidepipeError):
    """A slide cannot be opened or used. The run continues without it."""


class ResolutionError(SlideError):
    """The resolution of a scan is missing or implausible. The user can give it."""


class RegionError(SlideError):
    """A region of a slide cannot be read. The rest of the slide can."""


class WellError(SlidepipeError):
    """A well cannot be used: it has no slides, names without a depth, or two slides with the same id."""


class ReferenceSetError(SlidepipeError):
    """A reference set cannot be used: it is empty, has unreadable images, or too few images of a genus."""


class ResultsError(SlidepipeError):
    """A RESULTS folder belongs to another well, is incomplete, or cannot be written."""


class PluginError(SlidepipeError):
    """A plugin is missing or broken, its name is claimed twice, or it violates its interface."""


class WeightsError(SlidepipeError):
    """Weights are missing, do not fit the network, or have an unexpected checksum."""


class ClusterError(SlidepipeError):
    """The Dask cluster of the run is no longer available."""


class WorkerDiedError(SlidepipeError):
    """A task killed every worker process that ran it."""
