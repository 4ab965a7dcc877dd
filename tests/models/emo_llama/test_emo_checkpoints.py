"""What EMO-LLaMA loads, saves and keeps on disk: pretrained parts, checkpoints, the cache."""

import json
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file

from emo_tiny import (
    LLAMA,
    LORA,
    MINING,
    SCHEMA,
    RandomPrior,
    arguments,
    batch_of,
    make,
    open_gates,
)
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.models.emo_llama import EmoLlama
from faceaffect.models.emo_llama.aggregator import AggregatorOptions, text_tokenizer
from faceaffect.models.emo_llama.dialogue import Dialogue
from faceaffect.models.emo_llama.llm import create_llm
from faceaffect.models.emo_llama.priors import FacePrior
from faceaffect.models.emo_llama.tower import create_tower
from faceaffect.registry import TABLES

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*frozen with random weights.*", "error::FutureWarning", "ignore:.*treespec.*"
)
VISION = {
    "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24, "image_size": 32,
    "patch_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


# Checkpoints and pretrained parts


def saved_llm(folder: Path, words: str, config: dict[str, Any] = LLAMA) -> str:
    torch.manual_seed(1)
    llm = create_llm(config=config, tokenizer=words)
    llm.base.save_pretrained(folder)
    llm.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "kind",
    [
        LLAMA,
        {**LLAMA, "model_type": "qwen2"},
        {**LLAMA, "model_type": "qwen3", "head_dim": 8},
        {**LLAMA, "model_type": "smollm3", "pad_token_id": 0},
        {**LLAMA, "tie_word_embeddings": True},  # SmolLM 1 and 2 are small Llamas with tied weights
    ],
    ids=lambda kind: kind["model_type"],
)
def test_local_folders_of_any_kind_load_by_one_key(
    words: str, tmp_path: Path, kind: dict[str, Any]
) -> None:
    folder = saved_llm(tmp_path, words, kind)
    model = make(words, llm={"name": folder, "lora": LORA}).eval()
    assert model.llm.source is not None
    assert model.llm.source["kind"] == "file"
    with torch.no_grad():
        answers = model.predict(batch_of(2))
    assert torch.isfinite(answers["expression"]).all()


def test_a_folder_with_nothing_but_a_sentencepiece_model_as_tokenizer(tmp_path: Path) -> None:
    """As Vicuna comes: tokenizer.model, no tokenizer.json."""
    texts = ["USER: \nWhich expression does the face show? ASSISTANT: happiness", "anger neutral"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 20), model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=90, model_type="bpe", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    about = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False,
             "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    llm = create_llm(config=LLAMA, tokenizer=str(tmp_path))
    dialogue = Dialogue(llm, "vicuna")
    assert dialogue.begin == (1,)
    assert dialogue.end == 2
    assert dialogue.decode(dialogue.answer("happiness")) == "happiness"


@pytest.mark.parametrize(("config", "attention", "says"), [
    ({**LLAMA, "model_type": "gemma2", "head_dim": 8}, "sdpa", "say model.llm.attention: eager"),
    ({"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 1}, "eager", "is recurrent"),
    ({"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 2}, "eager",
     "takes no position_ids"),
])  # fmt: skip
def test_models_that_cannot_score_options_are_named(
    words: str, config: dict[str, Any], attention: Any, says: str
) -> None:
    config = {**config, "vocab_size": 610}
    with pytest.raises((CheckpointError, RecipeError), match=says):
        create_llm(config=config, tokenizer=words, attention=attention)


def test_prompts_beyond_a_sliding_window_are_refused(words: str) -> None:
    mistral = {**LLAMA, "model_type": "mistral"}
    llm = {"tokenizer": words, "lora": LORA}
    for window, fits in ((8, False), (4096, True), (None, True)):
        model = make(words, llm={**llm, "config": {**mistral, "sliding_window": window}}).eval()
        with torch.no_grad():
            if fits:
                model.predict(batch_of(1))
                model.describe(batch_of(1))
                continue
            for act in (model.predict, model.describe, model.loss):
                with pytest.raises(RecipeError, match="reaches 8 tokens back"):
                    act(batch_of(1))
    qwen = {**LLAMA, "model_type": "qwen2", "sliding_window": 8, "use_sliding_window": False}
    with torch.no_grad():
        make(words, llm={**llm, "config": qwen}).eval().predict(batch_of(1))


def test_checkpoints_hold_what_was_trained_and_restore_it(words: str, tmp_path: Path) -> None:
    folder = saved_llm(tmp_path / "llm", words)
    model = make(words, llm={"name": folder, "lora": LORA})
    trainer = L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader([batch_of(3)] * 2, batch_size=None))
    trainer.save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    state = torch.load(tmp_path / "m.ckpt", weights_only=True)["state_dict"]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained <= set(state)
    # The random tower of this test is named by nothing, so it is stored; the language model is not.
    extra = {n for n in set(state) - trained if not n.startswith("faces.")}
    assert not any(n.startswith("llm.") for n in extra), extra
    other = make(words, llm={"name": folder, "lora": LORA})
    checkpoint = torch.load(tmp_path / "m.ckpt", weights_only=True)
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    with torch.no_grad():
        one, two = (m.eval().predict(batch_of(2)) for m in (model, other))
    for task in one:
        assert torch.equal(one[task], two[task])
    saved_llm_again = create_llm(config=LLAMA, tokenizer=words)
    saved_llm_again.base.save_pretrained(folder)
    changed = make(words, llm={"name": folder, "lora": LORA})
    with pytest.raises(CheckpointError, match="frozen weights"):
        changed.on_load_checkpoint(torch.load(tmp_path / "m.ckpt", weights_only=True))


def test_the_adapter_exports_in_the_format_of_peft(words: str, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = saved_llm(tmp_path / "llm", words)
    model = make(words, llm={"name": folder, "lora": LORA}).eval()
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.export_adapter(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with warnings.catch_warnings():  # peft itself asks for a property that transformers has renamed
        warnings.simplefilter("ignore", FutureWarning)
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        ours = model.llm.net(inputs_embeds=model.llm.embed(ids)).logits
        torch.testing.assert_close(loaded(input_ids=ids).logits, ours)
    with pytest.raises(CheckpointError, match="no adapter"):
        make(words, llm={"name": folder}).export_adapter(tmp_path / "none")


def test_towers_of_transformers(words: str, tmp_path: Path) -> None:
    tower = create_tower(config=VISION, layer=-2)
    image = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    assert tower(image).shape == (2, 1 + 16, 16)
    assert tower.num_prefix_tokens == 1
    tower.net.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    again = create_tower(f"hf:{tmp_path}", layer=-2)
    assert again.mean == (0.5, 0.5, 0.5)
    assert again.fingerprint != tower.fingerprint  # other pixels, other features
    for one, other in zip(tower.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    model = make(words, tower={"name": f"hf:{tmp_path}"})
    model.loss(batch_of(2)).backward()
    assert not any(p.requires_grad for p in model.faces.tower.parameters())


def test_the_parts_of_an_instructblip_checkpoint(words: str, tmp_path: Path) -> None:
    vision = {**VISION, "model_type": "instructblip_vision_model", "initializer_range": 0.02}
    vision["layer_norm_eps"] = 3e-6
    qformer = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 600,
        "intermediate_size": 32, "encoder_hidden_size": 16,
    }  # fmt: skip
    config = transformers.InstructBlipConfig(
        vision_config=vision, qformer_config=qformer, text_config=LLAMA, num_query_tokens=4
    )
    torch.manual_seed(3)
    whole = transformers.InstructBlipForConditionalGeneration(config)
    for name, parameter in whole.named_parameters():
        if "post_layernorm" in name:
            torch.nn.init.normal_(parameter)
    whole.save_pretrained(tmp_path, max_shard_size="20KB")
    transformers.AutoTokenizer.from_pretrained(words).save_pretrained(
        tmp_path / "qformer_tokenizer"
    )
    model = make(
        words,
        tower={"name": f"hf:{tmp_path}"},
        aggregator={"qformer": str(tmp_path)},
    )
    state = whole.state_dict()
    wanted = {k.partition("qformer.")[2]: v for k, v in state.items() if "qformer." in k}
    for name, value in model.aggregator.qformer.named_parameters():
        assert torch.equal(value, wanted[name])
    (queries,) = [v for k, v in state.items() if k.endswith("query_tokens")]
    assert torch.equal(model.aggregator.queries, queries)
    norm = whole.vision_model.post_layernorm if hasattr(whole, "vision_model") else None
    norm = whole.model.vision_model.post_layernorm if norm is None else norm
    assert torch.equal(model.aggregator.norm.weight, norm.weight)
    assert torch.equal(model.aggregator.norm.bias, norm.bias)
    assert model.aggregator.norm.eps == 3e-6
    assert text_tokenizer(AggregatorOptions(qformer=str(tmp_path))) is not None
    model.loss(batch_of(2)).backward()
    wrong = {"qformer": str(tmp_path), "queries": 8}
    with pytest.raises(RecipeError, match=f"queries: 8, but {tmp_path} has 4"):
        make(words, tower={"name": f"hf:{tmp_path}"}, aggregator=wrong)
    qformer = model.aggregator.qformer
    qformer.save_pretrained(tmp_path / "alone")
    tokenizer = transformers.AutoTokenizer.from_pretrained(words)
    tokenizer.save_pretrained(tmp_path / "alone" / "qformer_tokenizer")
    with pytest.raises(CheckpointError, match="holds no weight 'query_tokens'"):
        make(
            words, tower={"name": f"hf:{tmp_path}"}, aggregator={"qformer": str(tmp_path / "alone")}
        )


@pytest.mark.parametrize(("changes", "error", "says"), [
    ({"llm": {"name": "/no/such/folder"}}, CheckpointError, "no folder /no/such/folder"),
    ({"llm": {"name": "owner/model"}}, RecipeError, "pretrained: true"),
    ({"llm": {}}, RecipeError, "either a name or a config"),
    ({"llm": {"config": LLAMA}}, RecipeError, "needs a tokenizer"),
    ({"llm": {"config": {"model_type": "no"}, "tokenizer": "x"}}, RecipeError, "no model type"),
    ({"llm": {"config": {"model_type": "llama", "hiden_size": 3}, "tokenizer": "x"}}, RecipeError,
     "did you mean 'hidden_size'"),
    ({"llm": {"config": {"model_type": "llama", "hidden_size": "a"}, "tokenizer": "x"}},
     RecipeError,
     "model.llm.config"),
    ({"tower": {"name": "hf:/no/such/folder"}}, CheckpointError, "model.tower.name: no folder"),
    ({"tower": {"config": {"model_type": "llama"}}}, RecipeError, "vision"),
    ({"tower": {"name": "test_vit", "layer": -2}}, RecipeError, "hf:"),
    ({"prior": None}, RecipeError, "needs one"),
    ({"prior": "nameless", "face_profile": True}, RecipeError, "nameless does not estimate age"),
    ({"prior": "nobody"}, RecipeError, "unknown name 'nobody'"),
    ({"prior": {"name": "random", "size": 3}}, RecipeError, "model.prior.size: unknown key"),
    ({"mining": {"inner": 7, "heads": 2}}, RecipeError, "no multiple"),
    ({"mining": {"use_global": False, "use_local": False}}, RecipeError, "mining: null"),
    ({"aggregator": {"content": "max"}}, RecipeError, "grid:G"),
    ({"template": "alpaca"}, RecipeError, "plain, vicuna or chat"),
    ({"template": "chat"}, CheckpointError, "no chat template"),
])  # fmt: skip
def test_wrong_settings_are_named(
    words: str, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    llm = changes.get("llm")
    if llm and llm.get("tokenizer") == "x":
        changes = {"llm": {**llm, "tokenizer": words}}
    with pytest.raises(error, match=says):
        make(words, **changes)


def test_damaged_folders_are_named(words: str, tmp_path: Path) -> None:
    folder = saved_llm(tmp_path, words)
    with pytest.raises(RecipeError, match="lora"):
        make(words, llm={"name": folder, "lora": {**LORA, "targets": ["nope"]}})
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="not loadable"):
        make(words, llm={"name": folder})
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(CheckpointError, match="not readable as a configuration"):
        make(words, llm={"name": folder})


REMOTE = """
import pathlib
pathlib.Path("%s").touch()
from transformers import LlamaConfig as Own, LlamaForCausalLM as Net
from transformers import PreTrainedTokenizerFast as Words
"""


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_not_run(words: str, tmp_path: Path, file: str) -> None:
    folder, mark = tmp_path / "model", tmp_path / "run"
    saved_llm(folder, words)
    (folder / "own.py").write_text(REMOTE % mark)
    settings = json.loads((folder / file).read_text())
    if file == "config.json":
        settings |= {"model_type": "own", "architectures": ["Net"]}
        settings["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Net"}
    else:
        settings |= {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": [None, "own.Words"]}}
        (folder / "config.json").write_text('{"model_type": "own"}')
    (folder / file).write_text(json.dumps(settings))
    llm = {"name": str(folder)} if file == "config.json" else {"config": LLAMA}
    with pytest.raises(CheckpointError) as caught:
        make(words, llm={**llm, "tokenizer": str(folder)})
    assert "\n" not in str(caught.value)
    assert not mark.exists()


# The cache of frozen features


class LargePrior(RandomPrior):
    """A map as large as FAN's."""

    fingerprint = "large"

    def forward(self, image: torch.Tensor) -> FacePrior:
        prior = super().forward(image)
        prior.map = torch.nn.functional.interpolate(prior.map, (64, 64), mode="bilinear")
        return prior


class NamelessPrior(RandomPrior):
    def __init__(self) -> None:
        super().__init__()
        self.group_names = {}


TABLES["priors"]["large"] = f"{__name__}:LargePrior"
TABLES["priors"]["nameless"] = f"{__name__}:NamelessPrior"


@pytest.mark.parametrize("mining", [{}, {"inject": "extra_tokens"}])
def test_no_more_of_a_map_is_kept_than_is_used(
    words: str, tmp_path: Path, mining: dict[str, Any]
) -> None:
    mining = mining or MINING
    plain = make(words, prior="large", mining=mining).eval()
    cached = make(words, prior="large", mining=mining, cache=str(tmp_path)).eval()
    for model in (plain, cached):
        if model.mining is not None:
            open_gates(model.mining)
    with torch.no_grad():
        expected = plain.predict(batch_of(2))
        for _ in range(2):
            answers = cached.predict(batch_of(2))
            torch.testing.assert_close(answers["au"], expected["au"], atol=1e-5, rtol=1e-4)
    side = 2 if mining is MINING else 1
    for file in tmp_path.rglob("*.safetensors"):
        assert load_file(file)["prior_map"].shape == (12, side, side)


def test_cached_features_are_the_same_and_computed_once(words: str, tmp_path: Path) -> None:
    plain, cached = make(words).eval(), make(words, cache=str(tmp_path)).eval()
    batch = batch_of(3, frames=2)
    with torch.no_grad():
        expected, first = plain.predict(batch), cached.predict(batch)
        prior = cached.faces.prior
        assert isinstance(prior, RandomPrior)
        calls = prior.calls
        second = cached.predict(batch)
    assert prior.calls == calls
    for task in expected:
        assert torch.equal(expected[task], first[task])
        assert torch.equal(expected[task], second[task])


def test_damaged_cache_files_are_made_again(words: str, tmp_path: Path) -> None:
    model = make(words, cache=str(tmp_path)).eval()
    with torch.no_grad():
        first = model.predict(batch_of(2))
        files = sorted(tmp_path.rglob("*.safetensors"))
        assert len(files) == 2
        assert not list(tmp_path.rglob("*.part"))
        files[0].write_bytes(files[0].read_bytes()[:100])
        second = model.predict(batch_of(2))
    assert torch.equal(first["expression"], second["expression"])


def test_other_weights_and_other_faces_find_other_files(words: str, tmp_path: Path) -> None:
    one = make(words, cache=str(tmp_path)).eval()
    torch.manual_seed(9)
    other = EmoLlama(SCHEMA, **arguments(words, cache=str(tmp_path))).eval()
    assert one.faces.cache is not None
    assert other.faces.cache is not None
    assert one.faces.cache.folder != other.faces.cache.folder
    finer = make(words, cache=str(tmp_path), mining={**MINING, "grid": 4})
    assert finer.faces.cache is not None
    assert finer.faces.cache.folder != one.faces.cache.folder
    face = torch.zeros(3, 8, 8, dtype=torch.uint8)
    assert one.faces.cache.path(face) != one.faces.cache.path(face + 1)


def test_a_cache_of_augmented_faces_is_refused(words: str, tmp_path: Path) -> None:
    class Data(L.LightningDataModule):
        schema, augment = SCHEMA, object()

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader([batch_of(1)], batch_size=None)

        def statistics(self) -> dict[str, Any]:
            return {}

    trainer = L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    with pytest.raises(RecipeError, match="without augmentation"):
        trainer.fit(make(words, cache=str(tmp_path)), datamodule=Data())
