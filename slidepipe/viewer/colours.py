"""Colours of genera and states, the same as in the exports to QuPath."""

from slidepipe.exports.geojson import STATE_COLOURS, genus_colours
from slidepipe.viewer.results_index import ResultsIndex


def css_colours(index: ResultsIndex) -> dict[str, str]:
    """Return the colour of each genus and state, as CSS.

    Args:
        index: the tables.

    Returns:
        For example `{"deflandrea": "#1f77b4"}`.
    """
    colours = {**genus_colours(index.genera), **STATE_COLOURS}
    return {name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in colours.items()}
