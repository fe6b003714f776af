"""Make `stamp_concepts.json` again, the captions of stamps that are an emoji concept's label: `python data/samples/make_stamp_concepts.py`.

Needs what `python -m components.data.sources.stamps` and `… .emoji_packages` fetch.
"""

from __future__ import annotations

import json
from pathlib import Path

from components.data import atomic
from components.data.sources import debian_packages, emoji_packages, stamps
from components.data.sources.debian_packages import files_below


def shared_concepts() -> dict[str, list[str]]:
    """Letters of a plain caption -> [key, label, family] of the concept with that label; names beside the label are too loose."""
    labels = {stamps.letters(each.names[0]): each for each in emoji_packages.concepts()}
    root = debian_packages.unpacked(stamps.PACKAGE, stamps.RAW, stamps.FETCH)
    found = {}
    for path in files_below(root / "usr/share/tuxpaint/stamps", ".png", ".svg"):
        for caption in stamps.read_captions(path.with_suffix(".txt")):
            if concept := labels.get(name := stamps.letters(stamps.plain(caption))):
                found[name] = [concept.key, concept.names[0], concept.family]
    return found


if __name__ == "__main__":
    lines = [
        f" {json.dumps(name)}: {json.dumps(found)}"
        for name, found in sorted(shared_concepts().items())
    ]
    atomic.write_text(
        Path(__file__).with_name("stamp_concepts.json"), "{\n" + ",\n".join(lines) + "\n}\n"
    )
