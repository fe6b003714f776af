"""Which code writes captions, so that what was mended in a decoder or a model writes them anew."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


@cache
def code_revision() -> str:
    """Digest of the sources of decoders, models, tokenizers and of what asks them."""
    components = Path(__file__).parents[1]
    files = [
        file for folder in ("decoding", "models") for file in (components / folder).rglob("*.py")
    ]
    files += [*(components / "data").glob("*text*.py"), components / "evaluation" / "writing.py"]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
