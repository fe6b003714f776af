"""The page of an exported model, for people: what it is, how it is asked, how alike it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card(title: str, model: Any, layout: str, differences: Mapping[str, float]) -> str:
    """README.md: the Hub shows it as the model's card."""
    spec = model.batch_spec()
    lines = [
        "---", "library_name: diptych", "---", "",
        f"# {title}", "",
        f"A {type(model).__name__} of diptych. Read by: {layout}.", "",
        f"Images are uint8 RGB, {spec.image_px} x {spec.image_px}: the centre square, resized with Pillow's bicubic "
        "filter; colours are normalised inside. Texts are encoded with `tokenizer.json`, as `<bos> words <eos>`.",
    ]  # fmt: skip
    if differences:
        lines += ["", "| graph | largest difference from the model |", "|---|---|"]
        lines += [f"| {name} | {value:.1e} |" for name, value in differences.items()]
    if "step" in differences:
        lines += [
            "",
            "`prefill` reads the images and gives the logits of the first word and `new_state_…`; `step` takes the "
            "written tokens as `tokens` and that state as `state_…`, and gives the next. Numbered alike.",
        ]
    return "\n".join(lines) + "\n"
