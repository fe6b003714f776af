"""A CLIP from a local folder in transformers' layout, for other families' slots: config, safetensors, tokenizer.json.

Nothing is fetched, no code of the folder is run and no pickle opened.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from components.config import ConfigError
from components.models import hub_clip, hub_layout
from components.models.lm_folder import read_tokenizer
from components.models.parts import Origin, Part


def read_folder(name: str) -> Part:
    """The CLIP in a folder, frozen, with its tokenizer. Raises HubLayoutRefused, ConfigError."""
    folder = Path(name)
    model = hub_clip.from_pretrained(folder)
    # The last two entries of a CLIP's vocabulary are the start and the end of a text; config.json may say otherwise.
    end = model.config.vocab_size - 1
    ends = SimpleNamespace(bos_id=end - 1, eos_id=end, pad_id=end)
    tokenizer = read_tokenizer(folder / "tokenizer.json", ends)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ConfigError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size} entries and the model {model.config.vocab_size}; "
            "they are not of one model."
        )
    return Part(
        module=model.requires_grad_(False),
        tokenizer=tokenizer,
        origin=Origin(kind="folder", name=name, digest=hub_layout.weights_digest(folder)),
    )
