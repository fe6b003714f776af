"""What is right to say to a question: one answer to write, or a soft target for each of a list of known ones.

Ten accepted answers or more are what so many people said, as in VQA; fewer are a list of right ones, the best first, as
made questions have. Answers are compared as they are spelt: a source gives them as they are to be learnt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from components.records import ANNOTATORS

OF_ONE = 0.3
"""What one of ten people counts; four make an answer right beyond doubt. So an answer's target is its VQA accuracy."""


def best(accepted: Sequence[str]) -> str:
    """What most people said, the first on ties; of a list of right answers the first.

    >>> best(["red"] + ["blue"] * 9), best(["two", "2"])
    ('blue', 'two')
    """
    return Counter(accepted).most_common(1)[0][0] if len(accepted) >= ANNOTATORS else accepted[0]


def rightness(accepted: Sequence[str]) -> Mapping[str, float]:
    """How right each answer is, in (0, 1]: `min(0.3 people who said it, 1)`; of a list of right answers each is 1.

    >>> rightness(["red"] * 8 + ["pink"] * 2)
    {'red': 1.0, 'pink': 0.6}
    """
    if len(accepted) < ANNOTATORS:
        return dict.fromkeys(accepted, 1.0)
    return {answer: min(OF_ONE * count, 1.0) for answer, count in Counter(accepted).items()}


def answer_targets(accepted: Sequence[Sequence[str]], known: Sequence[str]) -> Tensor:
    """(B, A) float32: how right each known answer is to each row's question; what nobody said is 0."""
    rows = [rightness(answers) for answers in accepted]
    return torch.tensor([[row.get(answer, 0.0) for answer in known] for row in rows])
