"""A version as files for other programs: `diptych export`."""

from __future__ import annotations

from pathlib import Path

from components.export.folder import Exported, Format, export
from flows.using.chosen_version import choose
from infra.settings import Settings


def export_version(settings: Settings, version: str, to: Path, format: Format) -> Exported:
    """Write a version, or the checkpoint of a folder, to the folder `to`. Raises as `choose` and `export`."""
    chosen = choose(version, settings)
    return export(chosen.model, chosen.tokenizer, chosen.path, to, format, chosen.title)


def told(exported: Exported) -> list[str]:
    """What was written, in lines."""
    said = [f"{exported.folder}: {exported.format}, read by {exported.layout}"]
    said += [
        f"  {name:8} differs from the model by at most {value:.1e}"
        for name, value in exported.differences.items()
    ]
    if exported.captions_alike:
        said.append(f"  captions of {exported.captions_alike} images are the model's own")
    return said
