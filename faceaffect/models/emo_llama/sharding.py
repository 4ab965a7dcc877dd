"""Training on several GPUs of which none holds the whole language model.

Adapters and whatever else trains are few and stay whole in every process, as under DDP; the blocks
of the frozen language model are shared out by FSDP2 and gathered when they are needed. So clipping,
optimiser and checkpoints are those of DDP, and a run can go on under either.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
    StrategyRegistry,
)
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer
from typing_extensions import override

from faceaffect.errors import RecipeError
from faceaffect.models.emo_llama.llm import LanguageModel
from faceaffect.networks.weights import frozen_keys

NAME = "shard_frozen"
"""What a recipe calls the strategy: ``trainer.strategy=shard_frozen``."""


class ShardFrozen(DDPStrategy):
    """DDP in which the frozen blocks of language models are shared out over the processes.

    For validation and testing they are gathered, since there processes may differ in the number of
    batches; that takes the memory of the whole language model, but none for training.
    """

    _fits = False

    @override
    def setup(self, trainer: L.Trainer) -> None:
        """Share out the frozen blocks before the model is moved, if it is going to train."""
        self._fits = trainer.state.fn == TrainerFn.FITTING
        if self._fits:
            mesh = init_device_mesh(self.root_device.type, (self.world_size,))
            for module in self._module().modules():
                if isinstance(module, LanguageModel) and not module.sharded:
                    _shard(module, mesh)
        super().setup(trainer)

    @override
    def model_to_device(self) -> None:
        """Move the model; for testing alone, gather what an earlier training has shared out."""
        super().model_to_device()
        if not self._fits:
            self._gather()

    @override
    def configure_ddp(self) -> None:
        """Wrap the model, without the weights that are shared out."""
        names = [n for n, p in self._module().named_parameters() if isinstance(p, DTensor)]
        ddp: Any = DistributedDataParallel
        ddp._set_params_and_buffers_to_ignore_for_model(self._module(), names)
        super().configure_ddp()

    @override
    def on_validation_start(self) -> None:
        """Gather the weights, since processes may validate on differently many batches."""
        self._gather()

    @override
    def on_validation_end(self) -> None:
        """Share the weights out again, if training goes on."""
        if self._fits:
            for block in self._blocks():
                block.set_reshard_after_forward(True)
                block.reshard()

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return whole weights; those that a checkpoint leaves out are not gathered for it."""
        left_out = frozen_keys(self._module())
        state = self._module().state_dict()
        return {
            name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in state.items()
            if name not in left_out
        }

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load weights, of which each process takes its share."""
        own = self._module().state_dict()
        state = {n: _share(value, own.get(n)) for n, value in checkpoint["state_dict"].items()}
        self._module().load_state_dict(state, strict=strict)

    @override
    def teardown(self) -> None:
        """Leave a shared-out model on its device.

        Moving it would share it out again, and one process alone could not use it any more.
        """
        module = self._lightning_module
        if module is not None and any(True for _ in self._blocks()):
            self._lightning_module = None
        super().teardown()
        self._lightning_module = self.model = module

    def _module(self) -> L.LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def _blocks(self) -> Iterator[FSDPModule]:
        return (module for module in self._module().modules() if isinstance(module, FSDPModule))

    def _gather(self) -> None:
        # Training uses the same memory for them later, so they must not be tensors of inference.
        with torch.inference_mode(False), torch.no_grad():
            for block in self._blocks():
                block.set_reshard_after_forward(False)
                block.unshard()


def check_strategy(strategy: Strategy) -> None:
    """Refuse strategies that share out all weights, or need one float type for all.

    FSDP puts adapters and frozen weights, of two float types, into one flat parameter. The
    ModelParallelStrategy holds both, but gathers in every forward: our tests share samples out
    without padding, so that processes differ in their batches and their collectives do not meet.

    Raises:
        RecipeError: it is Lightning's FSDP or its ModelParallelStrategy.
    """
    if isinstance(strategy, (FSDPStrategy, ModelParallelStrategy)):
        raise RecipeError(
            f"trainer.strategy: {type(strategy).__name__} does not work with emo_llama, whose "
            f"adapters are of another float type and whose tests are not padded; say {NAME} or ddp"
        )


def _shard(model: LanguageModel, mesh: DeviceMesh) -> None:
    """Share out the frozen weights of each block; embeddings, head and adapters stay whole."""
    decoder = model.base.base_model
    blocks = [m for m in decoder.modules() if isinstance(m, GradientCheckpointingLayer)]
    for block in blocks:
        trained = {p for p in block.parameters() if p.requires_grad}
        fully_shard(block, mesh=mesh, ignored_params=trained)
    # The root has no weights of its own here; it gathers a block while the one before computes.
    shared = {p for block in blocks for p in block.parameters() if isinstance(p, DTensor)}
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()) - shared)
    model.sharded = True


def _share(value: Any, own: Any) -> Any:
    if not isinstance(own, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


StrategyRegistry.register(NAME, ShardFrozen, description="DDP with frozen blocks shared out")
