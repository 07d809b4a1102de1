"""Fully sharded training (FSDP2): ranks hold shards of weights, gradients, optimiser states.

A layer's weights are gathered from all ranks for its computation and freed after it; weights that
belong to no layer are gathered once per update. Therefore all ranks must run the same layers in the
same order, equally often: `largest` lets them agree where that depends on the data. Checkpoints
hold full tensors, exactly as without sharding.
"""

import itertools
from collections.abc import Mapping
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
    """Lightning's strategy for FSDP2, with checkpoints as those of any other strategy."""

    def __init__(self, num_ranks: int):
        super().__init__(
            data_parallel_size=num_ranks,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Let Lightning restore the optimiser through `load_optimizer_state_dict`."""
        return True

    def on_validation_start(self) -> None:
        """Gather all weights at once: ranks generate responses of different lengths."""
        for module in sharded_modules(self.lightning_module):
            module.unshard()
            # without this a layer would free its weights after the first decoding step
            module.set_reshard_after_forward(False, recurse=False)

    def on_validation_end(self) -> None:
        """Free the gathered weights, and free those of a layer after its computation again."""
        for module in sharded_modules(self.lightning_module):
            module.reshard()
            is_layer = module is not self.lightning_module
            module.set_reshard_after_forward(is_layer, recurse=False)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return full weights on the rank that writes them, empty tensors on the others."""
        assert self.lightning_module is not None
        return self._gather(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the full optimiser state on the rank that writes it, else empty tensors."""
        return self._gather(optimizer.state_dict())

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of full tensors, as the strategies without sharding do."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this rank's shards of full weights."""
        # the current weights say how each full tensor is to be sharded
        assert self.lightning_module is not None
        weights = self.lightning_module.state_dict()
        shards = {}
        for name, value in checkpoint["state_dict"].items():
            shards[name] = share(value, weights[name])
        self.lightning_module.load_state_dict(shards, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this rank's shards of full optimiser states."""
        states = checkpoint["optimizer_states"]
        for optimizer, state_dict in zip(self.optimizers, states, strict=True):
            groups = [group["params"] for group in optimizer.param_groups]
            weights = list(itertools.chain.from_iterable(groups))
            state = {}
            for index, values in state_dict["state"].items():
                state[index] = _shard_state(values, weights[index])
            optimizer.load_state_dict({**state_dict, "state": state})

    def _gather(self, tree: Any) -> Any:
        def gather(shard: DTensor) -> Tensor:
            full = full_tensor(shard)
            return full.cpu() if self.is_global_zero else full.new_zeros(0)

        return tree_map_only(DTensor, gather, tree)


def _shard_state(values: dict[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Shards of the optimiser's moments of one weight; its step counter is no shard of anything."""
    shards = {}
    for name, value in values.items():
        has_weights_shape = value.shape == weight.shape
        shards[name] = share(value, weight) if has_weights_shape else value
    return shards


def strategy(config: TrainerConfig) -> Strategy | str:
    """Return the strategy for Lightning's trainer; a single process has nothing to shard."""
    num_ranks = config.devices * config.num_nodes
    if config.strategy == "fsdp" and num_ranks > 1:
        return Sharded(num_ranks)
    return "auto"


def shard(module: LightningModule, step: str, mesh: DeviceMesh) -> None:
    """Shard the weights of a module in place.

    Args:
        module: the whole module.
        step: name of the method that computes the loss; every weight is used within it.
        mesh: all ranks, in one dimension.
    """
    # inner modules first: what remains of the weights belongs to the whole module
    for part in [*shared_modules(module), *layers(module)]:
        fully_shard(part, mesh=mesh)
    # its weights are needed again at once, in the backward pass
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(module, step)


def layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of encoder and language model."""
    found: list[nn.Module] = []
    for child in module.modules():
        if isinstance(child, nn.ModuleList):
            found += child
    return found


def shared_modules(module: nn.Module) -> list[nn.Module]:
    """Return modules that several layers have in common, such as adapters of `lora.shared`."""
    seen: set[nn.Module] = set()
    # a dict keeps the order, which must be the same on all ranks
    shared: dict[nn.Module, None] = {}
    for _, child in module.named_modules(remove_duplicate=False):
        if child in seen and child._parameters:
            shared[child] = None
        seen.add(child)
    return list(shared)


def sharded_modules(module: nn.Module | None) -> list[FSDPModule]:
    """Return the groups of weights that are gathered together, none without sharding."""
    if module is None:
        return []
    return [child for child in module.modules() if isinstance(child, FSDPModule)]


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of a shard; a collective operation, which every rank has to call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """Return the shard of a tensor that this rank holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def share(value: Tensor, like: Tensor) -> Tensor:
    """Return the shard of a full tensor that corresponds to this rank's shard of `like`.

    A shard is returned as it is.
    """
    if isinstance(value, DTensor) or not isinstance(like, DTensor):
        return value
    value = value.to(like.device)
    # every rank has the full tensor, so that none needs to send it
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def max_over_ranks(count: int, module: LightningModule) -> int:
    """Return the largest count of all ranks in a sharded training step, otherwise `count` itself.

    Ranks that run a layer as often as the rank that needs it most can gather its weights together.
    """
    if not (isinstance(module, FSDPModule) and module.training):
        return count
    maximum = torch.tensor(count, device=module.device)
    all_reduce(maximum, ReduceOp.MAX)
    return int(maximum)
