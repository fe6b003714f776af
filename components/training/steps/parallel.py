"""One module over several workers: a copy in each with averaged gradients (DDP), or a slice in each (FSDP2).

A slice is a DTensor; `whole`, `is_slice`, `slice_of`, `like` and `cut_again` are all that the rest of training has to know
of it. Every tensor that goes into a checkpoint is gathered and every one that comes out is cut, so a checkpoint is the
same for any number of workers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn
from torch import distributed as dist

from components.training.plan import TrainingPlan

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shared(module: nn.Module, plan: TrainingPlan, world: int) -> nn.Module:
    """The module whose forward is the loss, as all `world` workers call it together; for one, as it is.

    With `fsdp` its parameters are replaced: make the optimiser afterwards.
    """
    if world == 1:
        return module
    if is_sliced(plan, world):
        return _sliced(module, torch.device("cuda" if plan.gpus_per_worker else "cpu"))
    return nn.parallel.DistributedDataParallel(module)


def is_sliced(plan: TrainingPlan, world: int) -> bool:
    """Whether each worker holds a slice: all must then help with a checkpoint."""
    return world > 1 and plan.parallel == "fsdp"


def gathered(found: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Named tensors as a checkpoint holds them; all workers must ask, in the same order.

    keep: whether this one wants them; the others help and get none. One after another, so that the device holds no
    more than one whole tensor.
    """
    kept = {}
    for name, value in found.items():
        tensor = whole(value.detach())
        if keep:
            kept[name] = tensor.cpu() if is_slice(value) else tensor
    return kept


def whole(value: Tensor) -> Tensor:
    """All of a tensor; of a slice what all workers, who must all ask, hold together."""
    return value.full_tensor() if is_slice(value) else value


def is_slice(value: Tensor) -> TypeGuard[DTensor]:
    """Whether other workers hold the rest of a tensor."""
    # Not isinstance: importing DTensor takes every process two seconds, and few hold a slice.
    return hasattr(value, "full_tensor")


def slice_of(value: Tensor) -> Tensor:
    """What this worker holds of a tensor, in the same memory: for arithmetic that is each element's own."""
    return value.to_local() if is_slice(value) else value


def cut_again(module: nn.Module) -> None:
    """After forward passes that no backward pass followed: what is gathered for a step is slices again.

    Until then FSDP2 would go on with the numbers of those passes, and the module's parameters are not the optimiser's.
    """
    if hasattr(module, "reshard"):  # FSDPModule; imported it would cost as DTensor does
        module.reshard()  # type: ignore[operator]


def like(value: Tensor, wanted: Tensor) -> Tensor:
    """A whole tensor as this worker keeps it: on the device of `wanted`, and cut as that is if it has its shape."""
    if not is_slice(wanted) or value.shape != wanted.shape:
        return value.to(wanted.device)
    from torch.distributed.tensor import distribute_tensor

    # Every worker read the same file: none has to send anything (src_data_rank).
    there = value.to(wanted.device_mesh.device_type)
    return distribute_tensor(there, wanted.device_mesh, wanted.placements, src_data_rank=None)


def _sliced(module: nn.Module, device: torch.device) -> nn.Module:
    """FSDP2 (`fully_shard`): each repeated block is gathered when it runs and cut again, the rest for the whole step.

    Frozen parameters stay whole in every worker: they have neither gradient nor moments. So do buffers, which are worker
    0's in all of them at the start of each forward pass, as DDP has it: its checkpoint holds them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    uncut = {value for value in module.parameters() if value.dim() == 0 or not value.requires_grad}
    for value in uncut:
        value.data = value.data.to(device)  # FSDP2 moves what it cuts, and buffers; not this
        if value.requires_grad:
            # FSDP2 takes no scalars: each worker keeps them, and averages their gradients.
            value.register_post_accumulate_grad_hook(_average)
    for block in _blocks(module):
        fully_shard(block, mesh=mesh, ignored_params=uncut)
    module.register_forward_pre_hook(_send_buffers)
    fully_shard(module, mesh=mesh, ignored_params=uncut)
    return module


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost learning members of ModuleLists that are called and nothing else, and share no parameter."""
    owners = _owners(module)
    inside: set[nn.Module] = set()
    for each in module.modules():
        if isinstance(each, nn.ModuleList) and each not in inside:
            yield from (block for block in each if _may_be_cut(block, owners))
            inside |= set(each.modules())


def _may_be_cut(block: nn.Module, owners: Counter[nn.Parameter]) -> bool:
    own = _owners(block)
    alone = all(owners[value] == count for value, count in own.items())
    learns = any(value.requires_grad for value in own)
    return alone and learns and not any(_is_asked(type(part)) for part in block.modules())


def _owners(module: nn.Module) -> Counter[nn.Parameter]:
    """How often each parameter is named: tied ones more than once."""
    return Counter(value for _, value in module.named_parameters(remove_duplicate=False))


def _is_asked(kind: type[nn.Module]) -> bool:
    """Whether it has other methods than forward: a block is gathered around that alone, so it stays with the root."""
    ours = kind.__module__.startswith("components.")
    return ours and any(not name.startswith("_") and name != "forward" for name in vars(kind))


@torch.no_grad()
def _send_buffers(module: nn.Module, _: object) -> None:
    """Worker 0's buffers for all, one message for each kind of number."""
    alike: defaultdict[torch.dtype, list[Tensor]] = defaultdict(list)
    for value in module.buffers():
        # `data` counts no change: what frozen towers remember is forgotten when their tensors are told to have changed.
        alike[value.dtype].append(value.data)
    for values in alike.values():
        sent = torch.cat([value.flatten() for value in values])
        dist.broadcast(sent, 0)
        for value, theirs in zip(
            values, sent.split([each.numel() for each in values]), strict=True
        ):
            value.copy_(theirs.view_as(value))


def _average(parameter: Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad.div_(dist.get_world_size())
