"""EMO-LLaMA on two processes: DDP, and DDP with the frozen language model shared out.

The file is also the program that the processes run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor

from emo_tiny import EXPRESSIONS, LLAMA, LORA, arguments, batch_of, save_tokenizer
from faceaffect.errors import RecipeError
from faceaffect.models.emo_llama import EmoLlama
from faceaffect.models.emo_llama.sharding import check_strategy
from faceaffect.runs.cost import random_batch


class Batches(L.LightningDataModule):
    """Other faces in each process; in one of them a batch without labels, and fewer to test."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.schema = EXPRESSIONS

    def train_dataloader(self) -> Any:
        batches = [batch_of(2, seed=10 * self.rank + i, schema=EXPRESSIONS) for i in range(3)]
        if self.rank == 1:
            batches[1]["expression"][:] = -1
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def val_dataloader(self) -> Any:
        batches = [
            batch_of(2, seed=50 + 10 * self.rank + i, schema=EXPRESSIONS)
            for i in range(2 - self.rank)
        ]
        return torch.utils.data.DataLoader(batches, batch_size=None)

    test_dataloader = val_dataloader

    def statistics(self) -> dict[str, Any]:
        return {}


def make(tokenizer: str) -> EmoLlama:
    torch.manual_seed(0)
    llm = {"config": LLAMA, "tokenizer": tokenizer, "lora": LORA, "grad_checkpointing": True}
    model = EmoLlama(EXPRESSIONS, **arguments(tokenizer, llm={**llm, "dtype": "bfloat16"}))
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trained weights, and what mining knows of landmarks."""
    weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    return weights | {n: b.clone() for n, b in model.named_buffers() if "standardized" in n}


def frozen_numbers(model: nn.Module) -> int:
    """Return how many weights of the language model's frozen blocks this process holds."""
    blocks = [p for n, p in model.named_parameters() if ".layers." in n and not p.requires_grad]
    return sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in blocks)


def program(strategy: str, tokenizer: str, folder: Path) -> None:
    """Train and test, and write what this process ends up with."""
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    model, data = make(tokenizer), Batches(rank)
    model.seed = 0
    best = ModelCheckpoint(folder, "best", save_weights_only=True, enable_version_counter=False)
    trainer = L.Trainer(
        strategy=strategy, devices=2, accelerator="cpu", max_epochs=2, precision="bf16-mixed",
        gradient_clip_val=0.5, logger=False, callbacks=[best], enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    loss = float(trainer.callback_metrics["train/loss"])
    frozen = frozen_numbers(model)
    trainer.test(
        model, datamodule=data, ckpt_path=folder / "best.ckpt", weights_only=True, verbose=False
    )
    if rank == 0:  # as the cost is measured
        with torch.no_grad():
            model.eval().answer(random_batch(2, 64, torch.device("cpu")))
    assert model.predictions is not None
    told = {"loss": loss, "frozen": frozen, "tested": len(model.predictions)}
    (folder / f"{rank}.json").write_text(json.dumps(told))
    torch.save(trained(model), folder / f"{rank}.pt")


def run(strategy: str, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    folder.mkdir()
    tokenizer = save_tokenizer(folder)
    command = [sys.executable, __file__, strategy, tokenizer, str(folder)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return told, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_strategies_that_mix_up_float_types_are_refused() -> None:
    for strategy in (FSDPStrategy(), ModelParallelStrategy()):
        with pytest.raises(RecipeError, match="shard_frozen"):
            check_strategy(strategy)
    check_strategy(DDPStrategy())


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(tmp_path: Path) -> None:
    plain = make(save_tokenizer(tmp_path))
    before, blocks, results = trained(plain), frozen_numbers(plain), {}
    for strategy in ("ddp", "shard_frozen"):
        told, weights = run(strategy, tmp_path / strategy)
        results[strategy] = weights[0]
        assert all(torch.isfinite(torch.tensor(one["loss"])) for one in told)
        for name, value in weights[0].items():
            assert torch.equal(value, weights[1][name]), name
        assert any(not torch.equal(value, before[name]) for name, value in weights[0].items())
        assert [one["tested"] for one in told] == [6, 6]
        share = {"ddp": 1, "shard_frozen": 2}[strategy]
        assert [one["frozen"] for one in told] == [blocks / share] * 2
        # The checkpoint is the file that one process alone would write.
        model = make(save_tokenizer(tmp_path))
        checkpoint = torch.load(tmp_path / strategy / "best.ckpt", weights_only=True)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        for name, value in trained(model).items():
            assert torch.equal(value, weights[0][name]), name
    for name, value in results["ddp"].items():
        torch.testing.assert_close(results["shard_frozen"][name], value, atol=5e-3, rtol=0.05)


if __name__ == "__main__":
    program(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
