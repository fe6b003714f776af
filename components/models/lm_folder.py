"""A causal language model from a local folder in transformers' layout: config.json, safetensors, tokenizer.json.

No code of the folder is run and no pickle opened. Nothing is fetched.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch

from components.config import ConfigError
from components.data.pretrained_text import NAMES, PretrainedTokenizer
from components.data.text import TokenizerError
from components.models.causal_lm import CausalLm, CausalLmConfig
from components.models.hub_layout import weight_files, weights_digest
from components.models.lm_layouts import layout_of, sizes_of
from components.models.parts import Origin, Part


def read_folder(name: str) -> Part:
    """The language model in a folder, frozen, with its tokenizer. Raises ConfigError for a folder of something else."""
    folder = Path(name)
    lm = read_model(folder)
    tokenizer = read_tokenizer(folder / "tokenizer.json", lm)
    if tokenizer.vocab_size > lm.vocab_size:
        raise ConfigError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size} entries and the model {lm.vocab_size}; "
            "they are not of one model."
        )
    return Part(
        module=lm.requires_grad_(False).eval(),
        tokenizer=tokenizer,
        origin=Origin(kind="folder", name=name, digest=weights_digest(folder)),
    )


def read_model(folder: Path) -> CausalLm:
    """The model alone. Special ids that its config does not name are those of its `<eos>`."""
    from transformers import AutoConfig

    try:
        weight_files(
            folder
        )  # refuses an index that leads out of the folder, as transformers does not
        theirs = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        layout = layout_of(theirs.model_type)
        # Weights cannot be asked for by name alone: a folder's safetensors or nothing.
        model = layout.model_class().from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} holds no language model that can be read ({error}). It needs config.json of a known layout and "
            "model.safetensors, as save_pretrained writes them."
        ) from error
    sizes = sizes_of(theirs.model_type, theirs)
    longest = min(sizes["positions"], CausalLmConfig.max_tokens)
    config = CausalLmConfig(
        layout=theirs.model_type, max_tokens=longest, **_special_ids(theirs), **sizes
    )
    return CausalLm(config, model).eval()


def read_tokenizer(file: Path, lm: CausalLm) -> PretrainedTokenizer:
    """A byte-level BPE as it lies beside the model; our specials that it does not have are its `<eos>`.

    Raises ConfigError for any other kind.
    """
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        if saved["model"]["type"] != "BPE" or '"ByteLevel"' not in json.dumps(saved):
            raise ValueError("it is no byte-level BPE")
        reserved = [token["id"] for token in saved["added_tokens"] if token["special"]]
        # Without what adds ends, cuts and pads, which is ours, and without the names of the specials, which no caption
        # may spell.
        plain = saved | {
            "added_tokens": [token for token in saved["added_tokens"] if not token["special"]],
            "post_processor": None, "truncation": None, "padding": None,
        }  # fmt: skip
        ids = dict.fromkeys(NAMES, lm.eos_id) | {"<bos>": lm.bos_id, "<pad>": lm.pad_id}
        bpe = tokenizers.Tokenizer.from_str(json.dumps(plain))
        return PretrainedTokenizer(bpe, ids, {*reserved, *ids.values()})
    except TokenizerError as error:
        raise ConfigError(f"{file}: {error}") from error
    except Exception as error:  # tokenizers raises bare Exception for a damaged model
        raise ConfigError(
            f"{file} is no tokenizer that can be read ({error!r}); it must be a byte-level BPE, as those of GPT-2, OPT, "
            "Pythia and SmolLM are, in the one file that AutoTokenizer(...).save_pretrained writes."
        ) from error


def _special_ids(theirs: Any) -> dict[str, int]:
    eos = theirs.eos_token_id[0] if isinstance(theirs.eos_token_id, list) else theirs.eos_token_id
    named = {"bos_id": theirs.bos_token_id, "eos_id": eos, "pad_id": theirs.pad_token_id}
    return {name: eos if found is None else found for name, found in named.items()}
