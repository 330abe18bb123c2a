"""HTML pages from jinja2 templates: the one place that sets up jinja2, for the report, the benchmark, the search and the viewer.

A package keeps its templates and style sheets in a folder `templates` next to its modules. All packages share the
templates in `slidepipe/templates`: `page.html`, the frame of a page, and `macros.html`.
"""

import base64
import functools
import io
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from slidepipe.interfaces import UInt8Array


@functools.cache
def load_templates(package: str) -> jinja2.Environment:
    """Return the templates of a package, together with the templates that all packages share.

    Autoescape is on for every template, and an undefined name in a template is an error. Three filters are added to
    those of jinja2: `taxon` writes the name of a taxon in italics (see `taxon_name`), `taxon_text` writes it without
    the element `i`, and `blank` shows nothing for None and for not-a-number.

    Args:
        package: name of a package with a `templates` folder, for example `"slidepipe.report"`.

    Returns:
        The jinja2 environment; `get_template("page.html").render(...)` gives a page.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("slidepipe")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["taxon"] = lambda name: Markup("<i>{}</i>").format(taxon_name(str(name)))
    environment.filters["taxon_text"] = lambda name: taxon_name(str(name))
    environment.filters["blank"] = lambda value: "" if value is None or value != value else value  # NaN is not itself
    return environment


def render(package: str, template: str, **values: Any) -> Markup:
    """Render a template of a package.

    Args:
        package: as for `load_templates`.
        template: file name of the template, for example `"report.html"`.
        values: the names that the template uses. A `str` is escaped; a `Markup`, such as the result of another call
            of this function, is inserted as it is.

    Returns:
        The HTML, marked as safe to insert into another template.
    """
    html = load_templates(package).get_template(template).render(**values)
    # Safe to mark: the template has autoescape on, so every `str` in `html` that came from outside is escaped.
    return Markup(html)  # noqa: S704


def taxon_name(name: str) -> str:
    """Return the name of a taxon as palynologists write it: with a capital first letter.

    Args:
        name: name of a class folder of the reference set, for example `"deflandrea"`.

    Returns:
        `"Deflandrea"`. Only the first letter changes, so "deflandrea phosphoritica" becomes "Deflandrea phosphoritica".
    """
    return name[:1].upper() + name[1:]


def picture(image: UInt8Array | bytes, quality: int = 82) -> str:
    """Return an image as a data URI for the `src` attribute of an `img` element.

    Args:
        image: pixels, uint8 (H, W, 3), sRGB; or the bytes of a JPEG file.
        quality: JPEG quality for pixels, 1 to 95.

    Returns:
        `"data:image/jpeg;base64,..."`.
    """
    if not isinstance(image, bytes):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=quality)
        image = buffer.getvalue()
    return "data:image/jpeg;base64," + base64.b64encode(image).decode("ascii")
