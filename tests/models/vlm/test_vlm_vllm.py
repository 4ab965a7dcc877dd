"""Generation through vLLM: its interface, played by a stand-in on transformers, and itself."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vlm_tiny as tiny
from faceaffect.cli import main
from faceaffect.data.batch import FaceBatch
from faceaffect.data.synthetic import SyntheticFaces
from faceaffect.errors import RecipeError
from faceaffect.models.vlm.module import Vlm
from faceaffect.runs import cost

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
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_itself_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, where it is built for CPUs
    faces = SyntheticFaces(8, 4)
    image = torch.stack([torch.from_numpy(faces.load(n).image) for n in range(8)])
    names = [str(n) for n in range(8)]
    batch = FaceBatch(id=names, subject=names, image=image.permute(0, 3, 1, 2).contiguous())
    room = 256
    options = {"model_impl": "transformers", "enforce_eager": True, "max_model_len": room}
    through = tiny.make("asset:mini_vlm", engine="vllm", vllm=options, dtype="float32").eval()
    plain = tiny.make("asset:mini_vlm", dtype="float32").eval()
    asked = plain.describe(batch)
    assert through.describe(batch) == asked
    learned = trained(plain).describe(batch)
    assert learned != asked
    assert trained(through).describe(batch) == learned
    question = "Describe the emotion."
    while length_of(plain, batch, question) < room - 3:
        question += " Yes."
    with pytest.raises(RecipeError, match="broke off an answer"):
        through.describe(batch, question)


def length_of(model: Vlm, batch: FaceBatch, question: str) -> int:
    prompt = model.asker(batch).ask(0, question)
    return model.llm.inputs([prompt], model.chat)["input_ids"].shape[1]


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


@torch.no_grad()
def test_an_answer_that_vllm_breaks_off_is_an_error(vllm: Any, llava: Path) -> None:
    batch = tiny.batch_of(1)
    tiny.make(llava, engine="vllm", lora=None, max_new_tokens=4).describe(batch)
    ((prompt,),) = [engine.asked for engine in vllm.started]
    length = vllm.started[0].length(prompt)
    short = tiny.make(llava, engine="vllm", vllm={"max_model_len": length + 3}, max_new_tokens=4)
    with pytest.raises(RecipeError, match=r"broke off an answer at 3 of 4 .*vllm.max_model_len"):
        short.describe(batch)


def test_what_is_computed_elsewhere_is_not_counted(
    vllm: Any, llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "seconds_per_batch", lambda *_, **__: 0.1)
    through, plain = both(llava, answer_mode="generate")
    found = {
        name: cost.measure(model, 28, 1) for name, model in (("vllm", through), ("here", plain))
    }
    for key in ("flops_per_image", "peak_memory_bytes"):
        assert found["vllm"][key] is None
        assert found["here"][key] > 0
    assert found["vllm"]["images_per_second"] > 0


def test_a_class_that_vllm_lacks_is_transformers(
    vllm: Any, llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vllm.LLM.__init__

    def lacks(self: Any, model: str, **engine: Any) -> None:
        if engine["model_impl"] != "transformers":
            raise NotImplementedError("Unsupported vision config: ViTConfig")
        whole(self, model, **engine)

    monkeypatch.setattr(vllm.LLM, "__init__", lacks)
    with pytest.raises(RecipeError, match=r"Unsupported vision config.*model_impl: transformers"):
        both(llava)[0].describe(tiny.batch_of(1))
    through, plain = both(llava, vllm={"model_impl": "transformers"})
    assert through.describe(tiny.batch_of(1)) == plain.describe(tiny.batch_of(1))


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
