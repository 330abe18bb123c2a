"""The few pieces that every report is made of: one self-contained page, pictures inside it, tables, escaped text.

Nothing here refers to the network: styles and pictures travel in the file, so a page opens from disk years later.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from slidepipe.interfaces import UInt8Array

STYLE = """
:root { color-scheme: light; --ink: #1c2126; --muted: #5b6670; --line: #d9dee3; --ground: #ffffff; --tint: #f4f6f8;
  --mark: #0b6e99; --alert: #a3181f; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 16px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .4em 0; } h2 { font-size: 1.2rem; margin: 2em 0 .4em; }
h3 { font-size: 1rem; margin: 1.2em 0 .3em; } p { max-width: 75ch; margin: .4em 0; } .muted { color: var(--muted); }
.wide { overflow-x: auto; max-width: 100%; } svg, img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
td.number, th.number { text-align: right; } tr.mark td { background: #e6f3f9; font-weight: 600; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 16px 28px; }
"""

#: The browser is told to load nothing: neither a picture nor a script of another place, whatever a slide is called.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def page(title: str, body: str, style: str = "", policy: str = _POLICY, head: str = "") -> str:
    """A whole HTML page.

    Args:
        title: text.
        body: HTML already.
        style: CSS beyond :data:`STYLE`.
        policy: what the page may load (Content-Security-Policy); nothing, if not given.
        head: HTML at the end of the head.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n{head}</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def picture(image: UInt8Array | bytes, quality: int = 82) -> str:
    """A data URI for the ``src`` of an image, of uint8 (H, W, 3) sRGB pixels or of the bytes of a JPEG."""
    if not isinstance(image, bytes):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=quality)
        image = buffer.getvalue()
    return "data:image/jpeg;base64," + base64.b64encode(image).decode("ascii")


def text(value: object) -> str:
    """``value`` as HTML: :class:`Html` as it is, None and not-a-number as nothing, anything else escaped."""
    if isinstance(value, Html):
        return value
    return "" if value is None or value != value else escape(str(value))


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = (), marked: Iterable[int] = ()
) -> str:
    """A table of text, escaped.

    Args:
        header: the columns' names.
        rows: cells as text, :class:`Html`, or anything with a ``str``; None shows as empty.
        numbers: columns to align right.
        marked: rows to bring out.
    """
    right, bold = set(numbers), set(marked)

    def cells(tag: str, values: Sequence[object]) -> str:
        return "".join(
            f"<{tag}{' class=number' if column in right else ''}>{text(value)}</{tag}>"
            for column, value in enumerate(values)
        )

    body = "".join(
        f"<tr{' class=mark' if number in bold else ''}>{cells('td', row)}</tr>\n" for number, row in enumerate(rows)
    )
    return (
        f'<div class="wide"><table><thead><tr>{cells("th", header)}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'
    )
