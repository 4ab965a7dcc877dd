"""Facial priors in every family: nothing changes untrained, the right face counts once trained."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

import emo_tiny
import vlm_tiny as tiny
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.instructions.items import Labels
from faceaffect.models.emo_llama.landmarks_prior import Landmarks106
from faceaffect.models.emo_llama.priors import REGIONS
from faceaffect.models.vlm.mining import FaceLlavaOptions, RegionAttention, proximity
from faceaffect.models.vlm.module import Vlm
from faceaffect.models.vlm.shots import Shot

MININGS: dict[str, Any] = {
    "face_info_mining": {"name": "face_info_mining", **emo_tiny.MINING},
    "face_llava": {"name": "face_llava", "heads": 2, "inner": 8},
    "emola": {"name": "emola"},
}


@pytest.fixture(params=sorted(MININGS))
def mining(request: pytest.FixtureRequest) -> str:
    return request.param


def make(folder: Path, mining: str, **changes: Any) -> Vlm:
    return tiny.make(folder, prior="random", mining=MININGS[mining], dtype="float32", **changes)


def as_if_trained(model: Vlm) -> None:
    priors = model.llm.priors
    assert priors is not None
    priors.trained.fill_(True)
    with torch.no_grad():
        for gate in priors.gates():
            gate.fill_(2.0)
        for name, parameter in priors.part.named_parameters():
            if "gate" not in name and parameter.ndim > 1:
                parameter.mul_(3)


@lru_cache
def base_of(folder: Path) -> Vlm:
    """Return the same family without priors."""
    return tiny.make(folder, dtype="float32").eval()


def rows(batch: Any, *places: int) -> Any:
    return {key: value[list(places)] if isinstance(value, Tensor) else
            [value[i] for i in places] for key, value in batch.items()}  # fmt: skip


def scores(model: Vlm, batch: Any) -> Tensor:
    asker = model.asker(batch)
    prompts = [p for sample in range(len(batch["id"])) for p in asker.score(sample, "expression")]
    return model.llm.scores(prompts, model.chat)


@torch.no_grad()
def test_untrained_priors_change_nothing_and_trained_ones_are_of_the_face_asked_about(
    folder: Path, family: str, mining: str
) -> None:
    base, model = base_of(folder), make(folder, mining).eval()
    clips = family != "instructblip"
    for batch in [tiny.batch_of(2)] + [tiny.batch_of(2, frames=3)] * clips:
        assert torch.equal(scores(model, batch), scores(base, batch))  # bit for bit
    as_if_trained(model)
    batch = tiny.batch_of(3, frames=2 * clips)
    together = scores(model, batch)
    assert not torch.allclose(together, scores(base, batch), atol=1e-4)
    for row in range(3):
        alone = scores(model, rows(batch, row))
        torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=1e-4)
    model.llm.shares = False
    torch.testing.assert_close(scores(model, batch), together, rtol=0, atol=1e-4)
    model.llm.shares = True
    batch["video"][1] = 0  # no face is found
    missing = scores(model, batch)
    torch.testing.assert_close(missing[1:2], scores(base, rows(batch, 1)), rtol=0, atol=1e-4)
    torch.testing.assert_close(missing[[0, 2]], together[[0, 2]], rtol=0, atol=1e-4)
    model.max_new_tokens = 3
    said = model.describe(batch)
    assert [model.describe(rows(batch, row))[0] for row in range(3)] == said


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "instructblip"])
def test_priors_learn_and_the_frozen_networks_do_not(
    family: str, folder: Path, mining: str
) -> None:
    model = make(folder, mining, gate_lr=10.0).train()
    model.loss(tiny.batch_of(2)).backward()
    priors = model.llm.priors
    assert priors is not None
    learned = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(".priors.part." in n for n in learned)  # behind a gate only from the next step
    assert all(".priors.part." in n or "lora_" in n for n in learned)
    assert bool(priors.trained)
    gates = {id(gate) for gate in priors.gates()}
    for group in model.parameter_groups():
        own = {id(p) for p in group["params"]}
        if own & gates:
            assert own <= gates
            assert group["lr"] == pytest.approx(model.optim.lr * 10)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava"])
def test_the_token_of_landmarks_stands_behind_the_tokens_of_the_picture(folder: Path) -> None:
    model = make(folder, "emola").eval()
    as_if_trained(model)
    batch = tiny.batch_of(1)
    (prompt,) = model.asker(batch).score(0, "expression")
    llm, net = model.llm, model.llm.base
    text = model.chat.text(prompt)
    given = llm.processor(text=[text], images=[list(prompt.media[0])], return_tensors="pt")
    ids = given["input_ids"]
    seen = net.get_image_features(given["pixel_values"]).pooler_output[0]
    embedded = net.get_input_embeddings()(ids)
    where = (ids[0] == net.config.image_token_id).nonzero()[:, 0]
    embedded[0, where] = seen
    points = emo_tiny.RandomPrior()(prompt.media[0]).landmarks.flatten()
    first, last = llm.priors.part.project[0], llm.priors.part.project[2]  # type: ignore[union-attr]
    token = last(torch.nn.functional.gelu(first(points)))
    end = int(where[-1]) + 1
    plain = []
    for branch in prompt.branches:
        more = torch.tensor([i for part in branch for i in part.ids])
        whole = torch.cat([embedded[0, :end], token[None], embedded[0, end:],
                           net.get_input_embeddings()(more)])  # fmt: skip
        logits = net(inputs_embeds=whole[None]).logits[0].log_softmax(-1)
        said = torch.tensor([part.said for part in branch for _ in part.ids])
        each = logits[ids.shape[1] : ids.shape[1] + len(more)].gather(1, more[:, None])[:, 0]
        plain.append(float(each[said].sum()))
    torch.testing.assert_close(scores(model, batch)[0], torch.tensor(plain), rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava"])
def test_examples_with_their_own_faces_stand_before_the_question(
    folder: Path, family: str, mining: str
) -> None:
    model, base = make(folder, mining, shots=1).eval(), base_of(folder)
    as_if_trained(model)
    batch, other = tiny.batch_of(2), tiny.batch_of(2, seed=1)
    model.shots = _shots(other)
    first = scores(model, batch)
    other["video"][0] = 0
    model.shots = _shots(other)
    assert not torch.allclose(first, scores(model, batch), atol=1e-4)  # the example's face counts
    base.shots = model.shots
    batch["video"][:] = 0
    torch.testing.assert_close(scores(model, batch), scores(base, batch), rtol=0, atol=1e-4)
    base.shots = []


def _shots(batch: Any) -> list[Any]:
    labels = Labels("anger", {1: True}, (0.0, 0.0))
    return [Shot("one", batch["video"][0].clone(), labels)]


@torch.no_grad()
def test_region_attention_is_that_of_plain_arithmetic() -> None:
    torch.manual_seed(0)
    part = RegionAttention(6, FaceLlavaOptions(heads=2))
    part.gate.fill_(0.3)
    prior, tokens = emo_tiny.priors(1), torch.randn(1, 4, 6)
    places = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [math.nan, math.nan]])
    points = (prior.landmarks[0] + 1) / 2
    regions = list(REGIONS.values())
    keys = torch.stack([lin(points[list(r)].flatten()) + part.whole(points.flatten())
                        for lin, r in zip(part.regions, regions, strict=True)])  # fmt: skip
    key, value = part.key_value(keys).chunk(2, -1)
    query, mixed = part.query(tokens[0]), torch.zeros(4, 6)
    for place in range(4):
        far = [0.0 if place == 3 else math.dist(places[place], points[list(r)].mean(0))
               for r in regions]  # fmt: skip
        near = torch.tensor([math.exp(-d) for d in far])
        near = near / near.sum()
        for head in (slice(0, 3), slice(3, 6)):
            logits = key[:, head] @ query[place, head] / 3**0.5 + near
            mixed[place, head] = logits.softmax(0) @ value[:, head]
    branch = part.last(part.norm(tokens[0] + part.out(mixed)))
    torch.testing.assert_close(
        part(tokens, prior, places)[0], tokens[0] + math.tanh(0.3) * branch, rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(part(tokens, prior, None), part(tokens, prior, places), atol=1e-6)


def test_a_place_in_a_region_is_nearest_to_it() -> None:
    points = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0))
    centres = torch.stack([points[0, list(r)].mean(0) for r in REGIONS.values()])
    near = proximity(points, centres)
    torch.testing.assert_close(near.sum(-1), torch.ones(2, 9))
    assert near[0].argmax(-1).tolist() == list(range(9))


def landmark_file(path: Path, numbers: int = 212) -> str:
    """Write a network that gives the mean of each colour, over and over."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["face"], ["mean"]),
        helper.make_node("Tile", ["mean", "times"], ["many"]),
        helper.make_node("Reshape", ["many", "shape"], ["all"]),
        helper.make_node("Slice", ["all", "from", "to", "axis"], ["fc1"]),
    ]
    values = {"times": [1, 1, 1, 100], "shape": [1, -1], "from": [0], "to": [numbers], "axis": [1]}
    constants = [helper.make_tensor(name, TensorProto.INT64, [len(v)], v)
                 for name, v in values.items()]  # fmt: skip
    face = helper.make_tensor_value_info("face", TensorProto.FLOAT, ["n", 3, 192, 192])
    out = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, numbers])
    graph = helper.make_graph(nodes, "landmarks", [face], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return str(path)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava"])
def test_106_landmarks_are_for_the_token_alone(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    prior = {"name": "landmarks_106", "weights": landmark_file(tmp_path / "106.onnx")}
    model = tiny.make(folder, prior=prior, mining="emola", dtype="float32").eval()
    as_if_trained(model)
    part: Any = model.llm.priors
    assert part.part.project[0].in_features == 212
    assert not torch.equal(
        scores(model, tiny.batch_of(1)), scores(base_of(folder), tiny.batch_of(1))
    )
    red = torch.zeros(1, 3, 50, 50, dtype=torch.uint8)
    red[:, 0] = 51
    assert float(Landmarks106(prior["weights"]).forward(red).landmarks[0, 49, 1]) == 0
    found = {pixels: Landmarks106(prior["weights"], pixels)(red).landmarks.flatten()[[0, 211]]
             for pixels in ("emola", "insightface")}  # fmt: skip
    assert found["emola"].tolist() == pytest.approx([0, 0.2], abs=1e-4)  # blue first, red last
    assert found["insightface"].tolist() == pytest.approx([51, 0], abs=0.1)
    for mining, words in [("face_llava", "68 landmarks, and the prior finds 106"),
                          ("face_info_mining", "68 landmarks"),
                          ({"name": "face_info_mining", "use_local": False}, "landmarks alone"),
                          ({"name": "face_llava", "heads": 5}, "heads")]:  # fmt: skip
        with pytest.raises(RecipeError, match=words):
            tiny.make(folder, prior="random" if "heads" in mining else prior, mining=mining)
    with pytest.raises(CheckpointError, match="gives 136 numbers"):
        Landmarks106(landmark_file(tmp_path / "68.onnx", 136))
    with pytest.raises(CheckpointError, match="no exported model"):
        Landmarks106(str(tmp_path / "none.onnx"))
    with pytest.raises(CheckpointError, match="facial priors"):
        model.llm.save_merged(tmp_path / "merged")
