"""The one exception tree of slidepipe.

Every message names the file (or setting) that is wrong, says what is wrong with it, and what to do. The command line
prints it as one line and leaves with exit status 2; a run turns a :class:`SlideError` of one slide into a row of
``failures.csv`` and goes on with the others.
"""


class SlidepipeError(Exception):
    """Anything a user can mend: bad input, bad settings, a missing file."""


class SettingsError(SlidepipeError):
    """A setting is unknown, of the wrong kind, or asks for what the data cannot give."""


class SlideError(SlidepipeError):
    """One slide cannot be opened or used (the run goes on without it)."""


class ResolutionError(SlideError):
    """A scan's resolution is missing or cannot be right; the user gives it, so the run does not start."""


class RegionError(SlideError):
    """One region of a slide cannot be read (the rest of the slide can)."""


class WellError(SlidepipeError):
    """A well folder cannot be taken as it is: no slides, unreadable names, two slides of one id."""


class ReferenceSetError(SlidepipeError):
    """A reference set cannot be used: empty, unreadable images, a genus with too few images."""


class ResultsError(SlidepipeError):
    """A RESULTS folder is another well's, incomplete, or cannot be written."""


class PluginError(SlidepipeError):
    """A plugin is missing, broken, claimed twice, or breaks its contract."""


class WeightsError(SlidepipeError):
    """Weights are missing, do not fit the network, or are not what they should be."""


class ClusterError(SlidepipeError):
    """The Dask cluster that does the work is gone."""


class WorkerDiedError(SlidepipeError):
    """A piece of work killed every process that was given it."""
