"""What an OpenClipart file says of itself: title, description, keywords, author and licence, from its RDF metadata."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from components.data.sources.svg_documents import parse

DC = "{http://purl.org/dc/elements/1.1/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
CC = "{http://web.resource.org/cc/}"
PUBLIC_DOMAIN = "CC-PDDC"
"""SPDX identifier of the package's own licence, which holds where a file names none."""
_LICENSES = {
    "http://web.resource.org/cc/PublicDomain": PUBLIC_DOMAIN,
    "http://creativecommons.org/licenses/publicdomain/": PUBLIC_DOMAIN,
    "http://creativecommons.org/licenses/GPL/2.0/": "GPL-2.0-only",
}


@dataclass(frozen=True, kw_only=True)
class About:
    """The metadata of one file; "" for what it does not say."""

    title: str
    description: str
    keywords: tuple[str, ...]
    author: str
    license: str
    """SPDX identifier, or the address the file gives."""


def read_about(document: bytes) -> About:
    """Read the metadata of an SVG file. Raises `UnsafeDrawing` as `svg_documents.parse`."""
    root = parse(document)
    work = root.find(f".//{CC}Work")
    if work is None:
        work = ElementTree.Element("none")
    licensed = work.find(f"{CC}license")
    address = "" if licensed is None else licensed.get(f"{RDF}resource", "")
    keywords = (_words(item.text) for item in work.iterfind(f"{DC}subject//{RDF}li"))
    return About(
        title=_words(work.findtext(f"{DC}title")),
        description=_words(work.findtext(f"{DC}description")),
        keywords=tuple(dict.fromkeys(filter(None, keywords))),
        author=_words(work.findtext(f"{DC}creator/{CC}Agent/{DC}title")),
        license=_LICENSES.get(address, address or PUBLIC_DOMAIN),
    )


def _words(text: str | None) -> str:
    return " ".join((text or "").split())
