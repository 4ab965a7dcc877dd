"""How checkpoints are loaded: from the hub, in 4 bits, with other attention; what is refused."""

import importlib.util
import json
import shutil
import socket
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub.constants
import pytest
import torch
import transformers
import transformers.utils.hub
from huggingface_hub.errors import RevisionNotFoundError

import vlm_tiny as tiny
from faceaffect.cli import main
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.models.vlm import loading
from faceaffect.networks import origins

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava(tmp_path_factory.mktemp("llava") / "model")


@pytest.fixture
def hub(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return owner/model of a hub whose cache holds it and which cannot be reached."""
    own = tmp_path / "hub" / "models--owner--tiny"
    shutil.copytree(llava, own / "snapshots" / COMMIT)
    (own / "refs").mkdir()
    (own / "refs" / "main").write_text(COMMIT)
    for module in (huggingface_hub.constants, transformers.utils.hub):
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return "owner/tiny"


def test_a_result_names_the_commit_of_the_hub(
    hub: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["data.name=synthetic", "data.n=40", "data.subjects=20", "data.num_workers=0",
            "data.batch_size=8", "data.image_size=32", "data.cache=null", "data.aus=[1]",
            "trainer.accelerator=cpu"]  # fmt: skip
    own = [f"model.checkpoint={hub}", f"output={tmp_path}/runs", "model.max_new_tokens=2"]
    assert main(["train", "mini_vlm_zero_shot", *own, *data]) == 2
    assert "pretrained: true" in capsys.readouterr().err
    assert main(["train", "mini_vlm_zero_shot", *own, *data, "model.pretrained=true"]) == 0
    (run,) = (tmp_path / "runs" / "mini_vlm_zero_shot").iterdir()
    result = json.loads((run / "metrics.json").read_text())
    assert f"owner/tiny@{COMMIT}" in json.dumps(result["started_from"])


@pytest.mark.parametrize("revision", ["v2", COMMIT])
def test_a_revision_that_cannot_be_reached_is_one_error(
    revision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:  # bound and not listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setattr(origins, "hf_hub_url", lambda *a, **k: f"{address}/x")
        own = ["model.checkpoint=owner/other", "model.pretrained=true"]
        assert main(["train", "mini_vlm_zero_shot", *own, f"model.revision={revision}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert f"'owner/other' (revision {revision})" in lines[0]
    assert "a folder that save_pretrained wrote" in lines[0]


def test_a_revision_that_the_hub_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def answered(*_: Any, **__: Any) -> None:
        raise RevisionNotFoundError("404 Client Error. (Request ID: x)", response=Mock())

    monkeypatch.setattr(origins, "get_hf_file_metadata", answered)
    with pytest.raises(CheckpointError, match=r"'owner/other'.* has no revision 'v2'; give"):
        tiny.make(Path("owner/other"), pretrained=True, revision="v2")


def test_four_bits_need_the_extra_and_a_gpu_and_are_passed_on(
    llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    there = {"bitsandbytes": None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: there.get(name, ...) if name in there
        else real(name, *a),
    )  # fmt: skip
    with pytest.raises(RecipeError, match=r"bitsandbytes.*faceaffect\[quantized\]"):
        tiny.make(llava, four_bit=True)
    there["bitsandbytes"] = True  # type: ignore[assignment]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="needs a CUDA device"):
        tiny.make(llava, four_bit=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading, "choose_dtype", lambda *_: torch.bfloat16)
    asked: dict[str, Any] = {}

    def from_pretrained(*_: Any, **given: Any) -> Any:
        asked.update(given)
        raise RuntimeError("stop here")

    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", from_pretrained)
    with pytest.raises(CheckpointError, match="stop here"):
        tiny.make(llava, four_bit=True)
    config = asked["quantization_config"]
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert asked["trust_remote_code"] is False


def test_checkpointing_saves_memory_not_numbers(llava: Path) -> None:
    found = []
    for checkpointing in (False, True):
        model = tiny.make(llava, dtype="float32", grad_checkpointing=checkpointing).train()
        torch.manual_seed(0)
        loss = model.loss(tiny.batch_of(2))
        loss.backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        layers = [m.gradient_checkpointing for m in model.llm.decoder.modules()
                  if hasattr(m, "gradient_checkpointing")]  # fmt: skip
        assert any(layers) == checkpointing
        found.append([loss.detach(), *grads])
    for plain, saved in zip(*found, strict=True):
        torch.testing.assert_close(plain, saved)


@torch.no_grad()
def test_kinds_of_attention_agree(llava: Path) -> None:
    answers = []
    for attention in ("sdpa", "eager"):
        model = tiny.make(llava, dtype="float32", attention=attention).eval()
        assert model.llm.base.config._attn_implementation == attention
        answers.append(model.predict(tiny.batch_of(2))["expression"])
    torch.testing.assert_close(*answers, rtol=0, atol=1e-5)
    if importlib.util.find_spec("flash_attn") is None:
        with pytest.raises(CheckpointError, match=r"[Ff]lash"):
            tiny.make(llava, attention="flash_attention_2")


@torch.no_grad()
def test_what_keeps_a_state_is_scored_by_full_forwards_and_says_so(
    llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = tiny.make(llava, dtype="float32").eval()
    net, processor, _ = loading.load(
        str(llava), pretrained=False, revision=None, dtype="float32", attention="sdpa",
        four_bit=False,
    )  # fmt: skip
    net.config.get_text_config().layer_types = ["linear_attention", "full_attention"]
    capsys.readouterr()
    llm = type(usual.llm)(net, processor, "tiny", lora=None)
    said = " ".join(capsys.readouterr().out.split())
    assert "tiny: LlavaForConditionalGeneration keeps a state (linear_attention)" in said
    assert "each is scored by a full forward pass" in said
    assert not llm.shares
    expected = usual.predict(tiny.batch_of(2))
    usual.llm = llm
    for task, value in usual.predict(tiny.batch_of(2)).items():
        torch.testing.assert_close(value, expected[task], rtol=0, atol=1e-4)
    assert usual.answering()["shared_prompt"] is False


def test_processors_that_do_not_fit_are_one_error(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded = tmp_path / "coded"
    shutil.copytree(llava, coded)
    for name in ("processor_config.json", "config.json"):
        file = coded / name
        about = json.loads(file.read_text())
        kind = "AutoProcessor" if name.startswith("processor") else "AutoConfig"
        about |= {"auto_map": {kind: "code.Own"}, "model_type": "own", "processor_class": "Own"}
        file.write_text(json.dumps(about))
    (coded / "code.py").write_text("raise SystemExit('run')")
    with pytest.raises(CheckpointError, match=r"coded.*(trust_remote_code|code|type)"):
        tiny.make(coded)
    words = tmp_path / "words"
    shutil.copytree(llava, words)
    for file in ("processor_config.json", "preprocessor_config.json"):
        (words / file).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="processor"):
        tiny.make(words)
    real = transformers.AutoProcessor.from_pretrained

    def without(*args: Any, **given: Any) -> Any:
        processor = real(*args, **given)
        processor.image_token = None
        return processor

    monkeypatch.setattr(loading.AutoProcessor, "from_pretrained", without)
    with pytest.raises(CheckpointError, match="no image token"):
        tiny.make(llava)


@torch.no_grad()
def test_pictures_are_shown_whole_if_asked(tmp_path: Path) -> None:
    folder = tiny.idefics3(tmp_path / "idefics3")
    lengths = []
    for tiles in (True, False):
        model = tiny.make(folder, dtype="float32", tiles=tiles).eval()
        model.llm.processor.image_processor.size = {"longest_edge": 56}
        prompts = model.asker(tiny.batch_of(1)).score(0, "expression")
        ids = model.llm.inputs(prompts, model.chat)["input_ids"]
        lengths.append(int((ids == model.llm.base.config.image_token_id).sum()))
        model.llm.scores(prompts, model.chat)
    assert lengths == [20, 4]  # four tiles and the whole; the whole alone
