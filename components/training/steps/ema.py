"""Moving averages of a model's weights: what is evaluated and exported in place of the last step's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.training.steps.names import named
from components.training.steps.parallel import slice_of


class Ema:
    """average <- d x average + (1 - d) x weight after each step, with d = min(decay, (1 + step) / (10 + step)).

    The second term keeps the random weights of the start out of short trainings; it is the one TensorFlow's
    ExponentialMovingAverage has, and a function of the step alone. Averaged are parameters that learn and buffers of
    real numbers (batch statistics); the rest is the model's own. Costs one more copy of these in memory.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = {name: value for name, value in named(model).items() if _moves(value)}
        self.values = {name: value.detach().clone() for name, value in self._live.items()}

    @property
    def live(self) -> dict[str, Tensor]:
        """The model's own tensors that are averaged, by name."""
        return self._live

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` finished steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        # Slices and whole buffers stand in one list, which torch refuses of DTensors.
        live = [slice_of(value.detach()) for value in self._live.values()]
        averages = [slice_of(value) for value in self.values.values()]
        torch._foreach_lerp_(averages, live, 1 - decay)


def _moves(value: Tensor) -> bool:
    return value.requires_grad if isinstance(value, nn.Parameter) else value.is_floating_point()
