"""HTML from jinja2 templates: the one place that sets up jinja2, for the report, the benchmark pages and the viewer."""

import functools

import jinja2


@functools.cache
def load_templates(package: str) -> jinja2.Environment:
    """Return the templates of a package.

    Autoescape is on for every template, and an undefined name in a template is an error.

    Args:
        package: name of a package with a ``templates`` folder, for example ``"slidepipe.report"``.

    Returns:
        The jinja2 environment; ``get_template("page.html").render(...)`` gives a page.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
