"""MAGIC: contrastive search steered by how well each candidate fits the image (Su et al. 2022, arXiv:2205.02655)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from components.abilities import Captions, Steers
from components.decoding.candidates import Scorer, Watch, Weights, search


def magic(
    model: Captions,
    pixels_BCHW: Tensor,
    keys_B: Tensor | None = None,
    *,
    eos_id: int,
    max_tokens: int,
    prompts: Sequence[Sequence[int]] | None = None,
    top_k: int = 45,
    alpha: float = 0.1,
    beta: float = 2.0,
    top_p: float = 1.0,
    scorer: Scorer | None = None,
    watch: Watch | None = None,
) -> list[list[int]]:
    """The ids written for each image, without `<bos>`, prompt and `<eos>`; at most `max_tokens`, `<eos>` counted.

    top_k, alpha: as in contrastive search. beta: how much the image counts, at least 0; with 0 nothing is scored.
    top_p: of the k, only the fewest whose probabilities reach this sum are looked at, in (0, 1]; 1 is the paper's.
    scorer: scores the candidates in the model's place; a model that does not steer needs one unless beta is 0.
    watch: is told the three parts of every score at each step.
    The defaults are the paper's for COCO. Raises BadOption, BadLogits. The model should be in eval mode.
    """
    weights = Weights(top_k=top_k, alpha=alpha, beta=beta, top_p=top_p)
    if beta and scorer is None:
        if not isinstance(model, Steers):
            raise TypeError(
                f"A {type(model).__name__} steers no search; take another decoder, or beta=0."
            )
        scorer = model.steer
    return search(
        model, pixels_BCHW, keys_B, weights, eos_id=eos_id, max_tokens=max_tokens,
        prompts=prompts, scorer=scorer if beta else None, watch=watch,
    )  # fmt: skip
