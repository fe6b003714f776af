"""What writes as graphs: a prefill, and a step that is handed the cache as plain tensors and hands it on.

So what is written by the graphs is what is written here, and a step costs what it costs here.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from components.export.graph import Graph
from components.export.states import leaves, with_leaves


def captioner(model: Any, pixels: Tensor, tokens: Tensor) -> list[Graph]:
    """`prefill` reads images, and both give the next word's logits."""
    first, _, _ = model.prefill(pixels[:2])
    after, _ = model.step(first, tokens[:2, 1])
    longer, _ = model.step(after, tokens[:2, 1])
    three, _, _ = model.prefill(pixels)
    step = _step(_Step(model, first), (first, after, longer, three), tokens, "logits")
    prefill = Graph(
        name="prefill",
        module=_Prefill(model),
        inputs={"pixels": pixels[:2]},
        growing={"pixels": (0,)},
        outputs=step.outputs,
        probes=((pixels[:1],), (pixels,)),
    )
    return [prefill, step]


def language_model(lm: Any, tokens: Tensor) -> list[Graph]:
    """`prefill` reads tokens, and both give states; their `logits` are apart, for a search wants those of few.

    A search that reads many words ahead (contrastive, MAGIC) compares states, and a vocabulary costs as much as all layers.
    """

    def read(tokens_BT: Tensor) -> Any:
        return lm.run(lm.embed(tokens_BT))[1]

    def then(state: Any) -> Any:
        return lm.step(lm.embed(tokens[:2, 1]), state)[1]

    first, three = read(tokens[:2, :2]), read(tokens[:, :1])
    after = then(first)
    step = _step(_LmStep(lm, first), (first, after, then(after), three), tokens, "hidden")
    prefill = Graph(
        name="prefill",
        module=_LmPrefill(lm),
        inputs={"tokens": tokens[:2, :3]},
        growing={"tokens": (0, 1)},
        outputs=step.outputs,
        probes=((tokens[2:, :4],), (tokens[:, :1],)),
    )
    hidden_TD = lm.run(lm.embed(tokens[:1, :4]))[0][0]
    logits = Graph(
        name="logits",
        module=_LmLogits(lm),
        inputs={"hidden": hidden_TD[:2]},
        growing={"hidden": (0,)},
        outputs=("logits",),
        probes=((hidden_TD[:1],), (hidden_TD,)),
    )
    return [prefill, step, logits]


class _Prefill(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        state, logits_BV, _ = self.model.prefill(*inputs)
        return logits_BV, *leaves(state)


class _Step(nn.Module):
    def __init__(self, model: Any, like: Any) -> None:
        super().__init__()
        self.model, self._like = model, like

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tokens_N, *state = inputs
        after, hidden_ND = self.model.step(with_leaves(self._like, state), tokens_N)
        return self.model.logits(hidden_ND), *leaves(after)


class _LmPrefill(nn.Module):
    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        hidden_BTD, state = self.lm.run(self.lm.embed(*inputs))
        return hidden_BTD, *leaves(state)


class _LmStep(nn.Module):
    def __init__(self, lm: Any, like: Any) -> None:
        super().__init__()
        self.lm, self._like = lm, like

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tokens_N, *state = inputs
        hidden_ND, after = self.lm.step(self.lm.embed(tokens_N), with_leaves(self._like, state))
        return hidden_ND, *leaves(after)


class _LmLogits(nn.Module):
    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.lm.logits(*inputs),)


def _step(module: nn.Module, states: tuple[Any, Any, Any, Any], tokens: Tensor, said: str) -> Graph:
    """states: of two rows, one token later, two later, and of three rows."""
    first, after, longer, three = states
    names = tuple(f"state_{number}" for number in range(len(leaves(first))))
    sizes = zip(leaves(first), leaves(after), leaves(three), strict=True)
    growing = {
        name: tuple(
            place
            for place, (two, read, rows) in enumerate(
                zip(*(each.shape for each in same), strict=True)
            )
            if two != read or two != rows
        )
        for name, same in zip(names, sizes, strict=True)
    }
    return Graph(
        name="step",
        module=module,
        inputs={"tokens": tokens[:2, 1], **dict(zip(names, leaves(after), strict=True))},
        growing={"tokens": (0,), **growing},
        outputs=(said, *(f"new_{name}" for name in names)),
        probes=((tokens[:, 1], *leaves(three)), (tokens[:2, 1], *leaves(longer))),
    )
