"""One module over several workers: a copy in each with averaged gradients (DDP), or a slice in each (FSDP2)."""

from __future__ import annotations

from torch import nn

from components.training.plan import TrainingPlan


def shared(module: nn.Module, plan: TrainingPlan, world: int) -> nn.Module:
    """The module whose forward is the loss, as all `world` workers call it together; as it is for one."""
    if world == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(module)
