"""The page of an exported model, for people: what it is, how it is asked, how alike it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.abilities import Captions, Detects, Steers


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
        lines += ["", _used(model)]
    return "\n".join(lines).rstrip() + "\n"


def _used(model: Any) -> str:
    """How graphs that belong together are used."""
    step = "`step` takes the written tokens as `tokens` and that state as `state_…`, and gives the next. Numbered alike."
    if isinstance(model, Steers):
        return (
            "The search is MAGIC's (arXiv:2205.02655) and is not in the graphs. `prefill` reads `tokens`, texts of one length "
            f"from `<bos>` on, and gives `hidden` and `new_state_…`; {step} `logits` are of the word that follows a state. "
            "`image` and `text` are the CLIP's; its texts are encoded with `text_tokenizer.json`, and cosines are multiplied "
            "by `cosine_scale` of `export.json`."
        )
    if isinstance(model, Captions):
        return f"`prefill` reads the images and gives the logits of the first word and `new_state_…`; {step}"
    if isinstance(model, Detects):
        return (
            "`search` gives a box and its `objectness` in [0, 1] at each anchor, and the `map_…` that `regions` reads. Which "
            "boxes are worth a look is chosen between the two: the best `candidates` of at least a pixel, without those that "
            "overlap a better one by more than `threshold`, at most `proposals` (all in `export.json`). `scores` compares what "
            "`regions` embeds with `names`, for each class the mean of `text` over its `prompts`, scaled to length 1; `base` "
            "says whose boxes training knew. Of boxes of a class that overlap by more than `overlap` the best stays."
        )
    return ""
