"""One CLIP three times, with equal weights: ours, open_clip's and transformers'; and batches as each of them eats them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import open_clip_peer
import torch
from torch import Tensor, nn

from components.models import hub_clip
from components.models.clip import Clip, ClipConfig
from components.records import Batch

CONFIG = ClipConfig(
    vision="vit", image_px=224, patch_px=32, vision_width=384, vision_layers=6, vision_heads=6,
    max_tokens=77, text_width=256, text_layers=6, text_heads=4, embed_width=256, vocab_size=4096,
)  # fmt: skip
"""ViT-B/32 with a half of its depth and width: 17.8 M parameters, the same share of them in each tower."""
MEAN_TOKENS = 15


def batch_of(rows: int, config: ClipConfig, device: str = "cpu") -> Batch:
    """Random images, and captions of 15 tokens on average, 6 to 40 long, as COCO's are."""
    torch.manual_seed(0)
    lengths_B = (MEAN_TOKENS + 5 * torch.randn(rows)).round().long().clamp(6, 40)
    place_T = torch.arange(config.max_tokens)
    tokens_BT = torch.randint(6, config.vocab_size - 1, (rows, config.max_tokens))
    tokens_BT[:, 0] = 1
    tokens_BT.masked_fill_(place_T >= lengths_B[:, None], 0)
    tokens_BT[torch.arange(rows), lengths_B - 1] = config.vocab_size - 1
    made = Batch(
        pixels_BCHW=torch.randint(
            0, 256, (rows, 3, config.image_px, config.image_px), dtype=torch.uint8
        ),
        tokens_BT=tokens_BT,
        lengths_B=lengths_B,
        groups_B=torch.arange(rows),
        keys_B=2 * torch.arange(rows),
        prompts_B=torch.ones(rows, dtype=torch.long),
    )
    return made.to(device)


def uncut(batch: Batch) -> Batch:
    """The same batch, said to be as long as its padding: nothing of it may be left out."""
    whole_B = torch.full_like(batch.lengths_B, batch.tokens_BT.shape[1])
    return replace(batch, lengths_B=whole_B)


def normalised(batch: Batch, model: Clip) -> Tensor:
    """Pixels as peers are given them, before any clock starts."""
    return (batch.pixels_BCHW - model.vision.mean) / model.vision.std


def transformers_clip(model: Clip) -> nn.Module:
    """transformers' CLIPModel with our weights."""
    from transformers import CLIPConfig, CLIPModel

    theirs = CLIPModel(CLIPConfig(**hub_clip.hub_config(model.config)))
    ours, state = model.state_dict(), {}
    for name, several in hub_clip.names(model.config).items():
        parts = (several,) if isinstance(several, str) else several
        state |= dict(
            zip(parts, ours[name].chunk(len(parts)) if parts[1:] else (ours[name],), strict=True)
        )
    missing, foreign = theirs.load_state_dict(state, strict=False)
    assert not foreign and all("position_ids" in name for name in missing), (missing, foreign)
    return theirs.train()


def open_clip_clip(model: Clip) -> tuple[nn.Module, nn.Module]:
    """open_clip's CLIP with our weights, and its loss."""
    models, losses = open_clip_peer.load()
    config = model.config
    theirs = models.CLIP(
        config.embed_width,
        {
            "image_size": config.image_px, "patch_size": config.patch_px,
            "width": config.vision_width, "layers": config.vision_layers,
            "head_width": config.vision_width // config.vision_heads,
        },
        {
            "context_length": config.max_tokens, "vocab_size": config.vocab_size,
            "width": config.text_width, "heads": config.text_heads, "layers": config.text_layers,
        },
        quick_gelu=True,
    )  # fmt: skip
    theirs.load_state_dict(_open_clip_names(model))
    return theirs.train(), losses.ClipLoss(cache_labels=True)


def _open_clip_names(model: Clip) -> dict[str, Tensor]:
    ours = model.state_dict()
    state = {
        "logit_scale": ours["log_scale"],
        "visual.proj": ours["image.projection.weight"].T,
        "text_projection": ours["text.projection.weight"].T,
        "token_embedding.weight": ours["text.tokens.weight"],
        "positional_embedding": ours["text.positions"],
    }
    tower = "image.slot.tower"
    for their, our in (
        ("class_embedding", "class_token"),
        ("positional_embedding", "positions"),
        ("conv1.weight", "patches.weight"),
    ):
        state[f"visual.{their}"] = ours[f"{tower}.{our}"]
    for kind in ("weight", "bias"):
        state[f"visual.ln_pre.{kind}"] = ours[f"{tower}.norm_before.{kind}"]
        state[f"visual.ln_post.{kind}"] = ours[f"{tower}.norm_after.{kind}"]
        state[f"ln_final.{kind}"] = ours[f"text.norm_after.{kind}"]
    parts = {
        "attn.in_proj_": "attention.inward.", "attn.out_proj.": "attention.outward.",
        "ln_1.": "norm_attention.", "ln_2.": "norm_layers.",
        "mlp.c_fc.": "layers.0.", "mlp.c_proj.": "layers.2.",
    }  # fmt: skip
    for theirs, mine, layers in (
        ("visual.transformer", f"{tower}.blocks", model.config.vision_layers),
        ("transformer", "text.blocks", model.config.text_layers),
    ):
        for number in range(layers):
            for their, our in parts.items():
                for kind in ("weight", "bias"):
                    state[f"{theirs}.resblocks.{number}.{their}{kind}"] = ours[
                        f"{mine}.{number}.{our}{kind}"
                    ]
    return state


@dataclass(frozen=True)
class Stepper:
    """A model that learns from one batch again and again."""

    model: nn.Module
    loss: Callable[[], Tensor]
    bf16: bool = False

    def steps(self) -> Callable[[], float]:
        """One training step: forward, backward, fused AdamW, as fast as each can be driven; the loss before it."""
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        device = next(self.model.parameters()).device.type

        def step() -> float:
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self.bf16):
                value = self.loss()
            value.backward()
            optimiser.step()
            return value.detach()

        return step


def sides(rows: int, bf16: bool, config: ClipConfig = CONFIG) -> Mapping[str, Stepper]:
    """Each peer and ours, ready to learn from the same batch with the same weights."""
    torch.manual_seed(0)
    model = Clip(config)
    batch = batch_of(rows, config)
    pixels = normalised(batch, model)
    (peer, peer_loss), hub = open_clip_clip(model), transformers_clip(model)
    whole, cut = Clip(config), Clip(config)
    for each in (whole, cut):
        each.load_state_dict(model.state_dict())
    return {
        "open_clip": Stepper(peer, lambda: peer_loss(*peer(pixels, batch.tokens_BT)), bf16),
        "transformers": Stepper(
            hub,
            lambda: hub(input_ids=batch.tokens_BT, pixel_values=pixels, return_loss=True).loss,
            bf16,
        ),
        "ours, text not cut": Stepper(whole, lambda: whole.loss(uncut(batch)).total, bf16),
        "ours": Stepper(cut, lambda: cut.loss(batch).total, bf16),
    }
