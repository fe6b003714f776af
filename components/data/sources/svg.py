"""Drawings (SVG text) -> square PNG images. The text is untrusted: what is not plain drawing is refused."""

from __future__ import annotations

import re
from io import BytesIO
from xml.etree import ElementTree

from PIL import Image

MAX_BYTES = 2 * 2**20
ELEMENTS = frozenset(
    [
        "svg",
        "g",
        "defs",
        "symbol",
        "use",
        "path",
        "rect",
        "circle",
        "ellipse",
        "line",
        "polyline",
        "polygon",
        "linearGradient",
        "radialGradient",
        "stop",
        "clipPath",
        "mask",
        "filter",
        "feBlend",
        "feColorMatrix",
        "feComposite",
        "feFlood",
        "feGaussianBlur",
        "feOffset",
    ]
)
"""All that the drawing sets use; none of these opens a file, runs a script or needs a font."""
_NAMESPACE = "{http://www.w3.org/2000/svg}"
_FOREIGN_URL = re.compile(r"url\(\s*['\"]?\s*(?!#)", re.IGNORECASE)


class UnsafeDrawing(ValueError):
    """An SVG with anything but shapes, gradients and filters of its own."""


class RendererMissing(ImportError):
    """The SVG renderer is not installed."""


def to_png(body: str, view_box: tuple[float, float, float, float], side_px: int) -> bytes:
    """Render the inside of an `<svg>` element as a square RGBA PNG, `side_px` wide, clear where nothing is drawn.

    view_box: left, top, width and height in the drawing's own units; the shorter side is padded evenly.
    The same text gives the same bytes with the pinned resvg-py and Pillow. Raises `UnsafeDrawing`, `RendererMissing`.
    """
    svg = _square(body, view_box)
    refuse_unsafe(svg)
    try:
        import resvg_py
    except ImportError as error:
        raise RendererMissing(
            "Drawings are rendered by resvg-py, which is not installed; "
            'it comes with `pip install -e ".[platform]"`.'
        ) from error
    # No resources folder and no fonts, so the renderer itself has nothing to open either.
    rendered = resvg_py.svg_to_bytes(
        svg_string=svg, width=side_px, height=side_px, skip_system_fonts=True
    )
    with Image.open(BytesIO(rendered), formats=["PNG"]) as picture:
        return encode_png(picture.convert("RGBA"))


def encode_png(picture: Image.Image) -> bytes:
    """The picture as PNG with every setting that decides the bytes written out."""
    encoded = BytesIO()
    picture.save(encoded, format="PNG", optimize=False, compress_level=6)
    return encoded.getvalue()


def refuse_unsafe(svg: str) -> None:
    """Raise `UnsafeDrawing` unless every element is known and every reference stays inside the text."""
    if len(svg) > MAX_BYTES:
        raise UnsafeDrawing(
            f"A drawing of {len(svg)} characters; at most {MAX_BYTES} are rendered."
        )
    # Without declarations there are no entities to expand, and without backslashes no CSS escapes to hide a URL in.
    for sign in ("<!", "<?", "\\"):
        if sign in svg:
            raise UnsafeDrawing(f'A drawing holds "{sign}"; only plain elements are rendered.')
    try:
        root = ElementTree.fromstring(svg)  # noqa: S314 - declarations were refused above
    except ElementTree.ParseError as error:
        raise UnsafeDrawing(f"A drawing is not well-formed XML ({error}).") from error
    for element in root.iter():
        _refuse_element(element)


def _refuse_element(element: ElementTree.Element) -> None:
    name = element.tag.removeprefix(_NAMESPACE)
    if name not in ELEMENTS:
        raise UnsafeDrawing(f"A drawing holds <{name}>; known: {', '.join(sorted(ELEMENTS))}.")
    for attribute, value in element.attrib.items():
        is_link = attribute.rpartition("}")[2] == "href"
        if attribute.lower().startswith("on") or (is_link and not value.startswith("#")):
            raise UnsafeDrawing(
                f'A drawing has {attribute}="{value[:60]}"; only links to its own parts (#name) are followed.'
            )
        if _FOREIGN_URL.search(value):
            raise UnsafeDrawing(f'A drawing points outside itself: {attribute}="{value[:60]}".')


def _square(body: str, view_box: tuple[float, float, float, float]) -> str:
    left, top, width, height = view_box
    side = max(width, height)
    box = (left - (side - width) / 2, top - (side - height) / 2, side, side)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{" ".join(f"{number:g}" for number in box)}">{body}</svg>'
    )
