"""Generation through vLLM: its interface as documented, played by a stand-in on transformers."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vlm_tiny as tiny
from faceaffect.cli import main
from faceaffect.errors import RecipeError
from faceaffect.models.vlm.module import Vlm

STANDINS = Path(__file__).parents[2] / "standins"


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the stand-in, found where vLLM would be."""
    monkeypatch.syspath_prepend(STANDINS)
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "1")
    import vllm

    vllm.started.clear()
    yield vllm
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.fixture
def llava(folders: dict[str, Path]) -> Path:
    if "llava" not in folders:
        folders["llava"] = tiny.llava(folders["root"] / "llava")
    return folders["llava"]


def trained(model: Vlm, seed: int = 1) -> Vlm:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return model.eval()


def both(folder: Path, **settings: Any) -> tuple[Vlm, Vlm]:
    settings = {"dtype": "float32", "max_new_tokens": 4} | settings
    return (trained(tiny.make(folder, engine="vllm", **settings)),
            trained(tiny.make(folder, **settings)))  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma3", "llava", "paligemma", "qwen3_vl"])
def test_the_same_prompts_and_pictures_go_to_vllm(vllm: Any, folder: Path) -> None:
    through, plain = both(folder, answer_mode="generate")
    batch = tiny.batch_of(2, frames=2 if plain.chat.videos else 0)
    assert through.predict(batch)["text"] == plain.predict(batch)["text"]
    question = "What is on {this} face?"
    assert through.describe(batch, question) == plain.describe(batch, question)
    (engine,) = vllm.started  # started once
    assert engine.engine["dtype"] == "float32"
    assert engine.engine["trust_remote_code"] is False
    assert engine.engine["max_lora_rank"] == 8  # the least that holds adapters of rank 4


@torch.no_grad()
def test_adapters_that_learned_on_are_given_anew(vllm: Any, llava: Path) -> None:
    through, plain = both(llava)
    batch = tiny.batch_of(1)
    said = [through.describe(batch), through.describe(batch)]
    trained(through, seed=2)
    said.append(through.describe(batch))
    (engine,) = vllm.started
    assert [lora.lora_int_id for lora in engine.loras] == [1, 1, 2]
    assert said == [plain.describe(batch), plain.describe(batch), trained(plain, 2).describe(batch)]


@torch.no_grad()
def test_options_reach_vllm_and_scores_stay_here(vllm: Any, llava: Path) -> None:
    options = {"gpu_memory_utilization": 0.3, "max_model_len": 900, "tensor_parallel_size": 2}
    through, plain = both(llava, vllm=options, lora=None)
    batch = tiny.batch_of(1)
    assert torch.equal(through.predict(batch)["expression"], plain.predict(batch)["expression"])
    assert not vllm.started  # nothing was to be generated
    through.describe(batch)
    (engine,) = vllm.started
    assert options.items() <= engine.engine.items()
    assert engine.loras == [None]
    assert through.answering()["engine"] == "vllm"


def test_what_vllm_says_is_one_error(
    vllm: Any, llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("No available memory for the cache blocks.\nTry more.")

    monkeypatch.setattr(vllm.LLM, "__init__", refuse)
    with pytest.raises(RecipeError, match=r"vLLM: No available memory for the cache blocks\."):
        both(llava)[0].describe(tiny.batch_of(1))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"mining": "emola"}, "model.mining: vLLM does not know"),
        ({"visual_exit": {}}, "model.visual_exit: vLLM does not know"),
        ({"four_bit": True}, "quantization: bitsandbytes"),
    ],
)
def test_what_vllm_would_leave_out_is_refused(
    llava: Path, settings: dict[str, Any], error: str
) -> None:
    with pytest.raises(RecipeError, match=error):
        tiny.make(llava, engine="vllm", **settings)


def test_without_vllm_one_error_says_the_way_out(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    found = "faceaffect.models.vlm.vllm_engine.importlib.util.find_spec"
    monkeypatch.setattr(found, lambda name: None)
    data = ["data.n=60", "data.subjects=20", "data.num_workers=0", "data.cache=null"]
    own = [f"model.checkpoint={llava}", "model.engine=vllm", f"output={tmp_path}"]
    assert main(["train", "mini_vlm_zero_shot", "trainer.accelerator=cpu", *own, *data]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "vllm" in line]
    assert "pip install 'faceaffect[vllm]'" in line
    assert "model.engine=transformers" in line
