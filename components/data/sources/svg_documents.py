"""SVG files as people draw them -> the plain drawings that `svg.py` renders: what is no shape is taken out or refused."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from components.data.sources import svg
from components.data.sources.svg import UnsafeDrawing

MAX_BYTES = 8 * 2**20
SVG = "{http://www.w3.org/2000/svg}"
SILENT = frozenset(["metadata", "title", "desc", "foreignObject"])
"""Elements that draw nothing we show; taken out with all they hold."""
_LINK = "{http://www.w3.org/1999/xlink}href"
_SIZED = frozenset(["width", "height", "x", "y", "viewBox", "version", "preserveAspectRatio"])
_LENGTH = re.compile(r"([\d.]+(?:e[+-]?\d+)?)\s*(px|pt|pc|mm|cm|in)?")
_UNITS = {"px": 1.0, "pt": 4 / 3, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0}
"""Pixels a unit, at CSS's 96 an inch."""
_LATIN = re.compile(rb"<\?xml[^>]*encoding=['\"]iso-8859-1", re.IGNORECASE)


def document_to_png(document: bytes, side_px: int) -> bytes:
    """Render a whole SVG file as a square RGBA PNG of `side_px`; see `svg.to_png`.

    An editor's own elements and attributes are left out. Raises `UnsafeDrawing` for what could reach outside the
    file, for entities, for texts and embedded images (no font and no file is opened), and `RendererMissing`.
    """
    root = parse(document)
    if root.tag.removeprefix(SVG) != "svg":
        raise UnsafeDrawing(f"Its root is <{root.tag[:60]}>; an SVG file begins with <svg>.")
    box = _view_box(root)
    drawing = _plain(root)
    drawing.tag = f"{SVG}g"
    for name in _SIZED.intersection(drawing.keys()):
        del drawing.attrib[name]
    try:
        return svg.to_png(ElementTree.tostring(drawing, encoding="unicode"), box, side_px)
    except ValueError as error:
        raise UnsafeDrawing(f"It cannot be rendered: {error}") from error


def parse(document: bytes) -> ElementTree.Element:
    """The elements of an XML file; `UnsafeDrawing` if it is too large, damaged, or declares entities."""
    if len(document) > MAX_BYTES:
        raise UnsafeDrawing(f"A file of {len(document)} bytes; at most {MAX_BYTES} are read.")
    # Decoded here, so that no declared encoding hides a declaration from the check.
    text = document.decode("latin-1" if _LATIN.match(document) else "utf-8", errors="replace")
    if "<!ENTITY" in text:
        raise UnsafeDrawing("A file declares entities, which are not expanded.")
    try:
        return ElementTree.fromstring(text.lstrip("\ufeff"))  # noqa: S314 - entities were refused above
    except (ElementTree.ParseError, ValueError) as error:
        raise UnsafeDrawing(f"A file is not well-formed XML ({error}).") from error


def _plain(element: ElementTree.Element) -> ElementTree.Element:
    kept = ElementTree.Element(
        element.tag,
        {name: value for name, value in element.items() if "}" not in name or name == _LINK},
    )
    for child in element:
        name = child.tag.removeprefix(SVG) if isinstance(child.tag, str) else "{comment"
        if "{" in name or name in SILENT:
            continue
        plain = _plain(child)
        # <switch> shows the first of its children that a viewer knows; with the foreign ones gone, all.
        plain.tag = f"{SVG}g" if name == "switch" else plain.tag
        kept.append(plain)
    return kept


def _view_box(root: ElementTree.Element) -> tuple[float, float, float, float]:
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", root.get("viewBox", ""))]
    if len(numbers) == 4:
        left, top, width, height = numbers
    else:
        left, top = 0.0, 0.0
        width, height = (_pixels(root.get(side, "")) for side in ("width", "height"))
    if not (width > 0 and height > 0):
        raise UnsafeDrawing(
            f"A file without a size: viewBox={root.get('viewBox')}, width={root.get('width')}."
        )
    return left, top, width, height


def _pixels(length: str) -> float:
    found = _LENGTH.fullmatch(length.strip())
    return float(found[1]) * _UNITS[found[2] or "px"] if found else 0.0
