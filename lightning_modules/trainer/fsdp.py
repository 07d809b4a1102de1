"""Sharded training (FSDP2): every rank keeps its share of each weight, gradient and optimiser state.

A layer's weights are gathered from all ranks when it computes and let go behind it; what belongs to no layer is
gathered once for an update. So all ranks run the same layers in the same order, equally often: `largest` lets them
agree on that where data decide. What leaves a run, checkpoints and hand-overs, is whole and looks as without sharding.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed import ReduceOp, all_reduce
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from configs.schema import TrainerConfig


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with the checkpoints of any other: one goes on where the other stopped."""

    def __init__(self, ranks: int):
        super().__init__(
            data_parallel_size=ranks, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def on_validation_start(self) -> None:
        """All weights at once: answers have as many steps as they are long, on every rank others."""
        for part in shards(self.lightning_module):
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)

    def on_validation_end(self) -> None:
        for part in shards(self.lightning_module):
            part.reshard()
            part.set_reshard_after_forward(part is not self.lightning_module, recurse=False)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self._for_file(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return self._for_file(optimizer.state_dict())

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        ours = self.lightning_module.state_dict()
        stored = {
            name: share(value, ours[name]) for name, value in checkpoint["state_dict"].items()
        }
        self.lightning_module.load_state_dict(stored, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, stored in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = list(
                itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
            )
            state = {
                i: {
                    name: share(v, weights[i]) if v.shape == weights[i].shape else v
                    for name, v in values.items()
                }
                for i, values in stored["state"].items()
            }
            optimizer.load_state_dict({**stored, "state": state})

    def _for_file(self, tree: Any) -> Any:
        """Whole tensors on the rank that writes, empty ones on the others."""

        def gathered(shard: DTensor) -> Tensor:
            full = whole(shard)
            return full.cpu() if self.is_global_zero else full.new_zeros(0)

        return tree_map_only(DTensor, gathered, tree)


def strategy(config: TrainerConfig) -> Strategy | str:
    """For Lightning's trainer. One process has nothing to share."""
    ranks = config.devices * config.num_nodes
    return Sharded(ranks) if config.strategy == "fsdp" and ranks > 1 else "auto"


def shard(module: LightningModule, step: str, mesh: DeviceMesh) -> None:
    """Share the weights out, in place.

    Args:
        step: the method that makes the loss; every weight is used within it.
        mesh: of all ranks, in one dimension.
    """
    for part in [*tied(module), *layers(module)]:
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(module, step)


def layers(module: nn.Module) -> list[nn.Module]:
    """Of encoder and language model."""
    return [layer for part in module.modules() if isinstance(part, nn.ModuleList) for layer in part]


def tied(module: nn.Module) -> list[nn.Module]:
    """What several layers have in common: adapters, as `lora.shared` has it."""
    seen: set[nn.Module] = set()
    found: dict[nn.Module, None] = {}
    for _, part in module.named_modules(remove_duplicate=False):
        if part in seen and part._parameters:
            found[part] = None
        seen.add(part)
    return [*found]


def shards(module: nn.Module | None) -> Iterator[FSDPModule]:
    """Each group of weights that is gathered at once; none of a module that is not sharded."""
    return (
        (part for part in module.modules() if isinstance(part, FSDPModule))
        if module is not None
        else iter(())
    )


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each rank may hold a share; every rank has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's share."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def share(value: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor the share that this rank holds of `like`."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def largest(count: int, module: LightningModule) -> int:
    """Of all ranks in a training step, where they have to go in step; without sharding `count`."""
    if not (isinstance(module, FSDPModule) and module.training):
        return count
    of_all = torch.tensor(count, device=module.device)
    all_reduce(of_all, ReduceOp.MAX)
    return int(of_all)
