"""Make `emoji_mini.json.gz` again from the npm packages: `python data/samples/make_emoji_mini.py`."""

from __future__ import annotations

from pathlib import Path

from components.data.sources.drawings import write_drawings
from components.data.sources.emoji import MINI_GROUPS, MINI_SETS
from components.data.sources.emoji_packages import fetch_emoji8, read_packages


def make(path: Path) -> None:
    """Fetch what is missing and write the sample to `path`; the same packages give the same bytes."""
    fetch_emoji8()
    write_drawings(path, read_packages(sets=MINI_SETS, groups=MINI_GROUPS))


if __name__ == "__main__":
    make(Path(__file__).with_name("emoji_mini.json.gz"))
