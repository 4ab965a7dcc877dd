from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from batches import FULL, face_batch, statistics
from faceaffect import LabelSchema, create_model
from faceaffect.errors import RecipeError
from faceaffect.models.au_graph import SelfAdjustingGraph, sparse_graph
from faceaffect.models.sacl import SACL, NodeFeatures, SACLNetwork
from occlusion import Marks, rank_of_pair, train

BP4D = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
MICRO = {"backbone": "test_resnet", "width": 8, "rank": 2, "key_width": 4}
AUS = LabelSchema(aus=(1, 2, 4, 6, 12))


def micro(schema: LabelSchema = AUS, **args: object) -> SACL:
    torch.manual_seed(0)
    return create_model("sacl", schema, **{**MICRO, **args})


def scores(n: int = 6, b: int = 4) -> Tensor:
    return torch.randn(b, n, n, generator=torch.Generator().manual_seed(n)).requires_grad_()


@pytest.mark.parametrize("k", [1, 3, 9])
def test_topk_rows_hold_the_best_k_and_the_node_itself(k: int) -> None:
    z = scores()
    graph = sparse_graph(z, k)
    torch.testing.assert_close(graph.sum(-1), torch.ones(4, 6))
    for b in range(4):
        for i in range(6):
            others = sorted((j for j in range(6) if j != i), key=lambda j: -z[b, i, j])
            kept = [i, *others[:k]]
            expected = torch.zeros(6)
            expected[kept] = z[b, i, kept].detach().softmax(0)
            torch.testing.assert_close(graph[b, i].detach(), expected)


def test_threshold_keeps_what_is_not_below_the_mean() -> None:
    z = scores()
    kept = sparse_graph(z, 0, "threshold") > 0
    own = torch.eye(6, dtype=torch.bool).expand(4, -1, -1)
    assert torch.equal(kept, (z >= z.mean(-1, keepdim=True)) | own)


def test_gradient_reaches_kept_weights_and_no_others() -> None:
    z = scores()
    graph = sparse_graph(z, 2)
    graph.square().sum().backward()
    assert torch.equal(z.grad != 0, graph > 0)


@pytest.mark.parametrize("select", ["topk", "threshold"])
@pytest.mark.parametrize("with_memory", [False, True])
def test_permuting_nodes_permutes_the_graph(select: str, with_memory: bool) -> None:
    torch.manual_seed(1)
    layer = SelfAdjustingGraph(8, key_width=4, neighbours=3, select=select)
    nodes, memory = torch.randn(5, 7, 8), torch.randn(5, 7, 7) if with_memory else None
    order = torch.randperm(7)
    graph, kept = layer(nodes, memory)
    moved = memory if memory is None else memory[:, order][:, :, order]
    graph_moved, kept_moved = layer(nodes[:, order], moved)
    torch.testing.assert_close(graph_moved, graph[:, order][:, :, order])
    torch.testing.assert_close(kept_moved, kept[:, order][:, :, order])


def test_memory_gate_goes_from_old_to_new_scores() -> None:
    layer = SelfAdjustingGraph(8, key_width=4)
    nodes, memory = torch.randn(2, 5, 8), torch.randn(2, 5, 5)
    fresh = layer(nodes)[1]
    for gate, expected in ((-50.0, memory), (50.0, fresh), (0.0, (memory + fresh) / 2)):
        layer.gate.data.fill_(gate)
        torch.testing.assert_close(layer(nodes, memory)[1], expected)


def test_low_rank_features_equal_one_projection_per_node() -> None:
    torch.manual_seed(0)
    layer = NodeFeatures(nodes=3, width=4, rank=2).eval()
    for norm in (layer.map_norm, layer.norm):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 4, 5, 5)
    shared = layer.shared.weight[:, :, 0, 0]
    down = layer.down.weight[:, :, 0, 0].view(3, 2, 4)
    up = layer.up.weight[:, :, 0, 0].view(3, 4, 2)

    def normed(y: Tensor, norm: torch.nn.Module, i: int, shape: tuple[int, ...]) -> Tensor:
        own = slice(4 * i, 4 * i + 4)
        scale = norm.weight[own] / (norm.running_var[own] + norm.eps).sqrt()
        return (y - norm.running_mean[own].view(shape)) * scale.view(shape) + norm.bias[own].view(
            shape
        )

    for i in range(3):
        maps = torch.einsum("oc,bchw->bohw", shared + up[i] @ down[i], x)
        vector = normed(maps, layer.map_norm, i, (4, 1, 1)).relu().mean((2, 3))
        torch.testing.assert_close(layer(x)[:, i], normed(vector, layer.norm, i, (4,)))


def permute_nodes(network: SACLNetwork, order: Tensor) -> None:
    """Give node k all that belonged to node order[k]."""
    n = len(order)
    for features in network.features:
        tensors = [features.down.weight, features.up.weight]
        for norm in (features.map_norm, features.norm):
            tensors += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        for tensor in tensors:
            tensor.data = tensor.data.unflatten(0, (n, -1))[order].flatten(0, 1)
    for head in (*network.stage_heads, network.head):
        head.weight.data, head.bias.data = head.weight.data[order], head.bias.data[order]


@pytest.mark.parametrize("training", [False, True])
def test_permuting_aus_permutes_graphs_and_logits(training: bool) -> None:
    model = micro(width=16, evidence_dropout=0.0).train(training)
    torch.nn.init.normal_(model.network.handovers[0].weight)
    image = face_batch(AUS, 6)["image"]
    order = torch.tensor([3, 0, 4, 1, 2])
    before = model.look(image)
    permute_nodes(model.network, order)
    after = model.look(image)
    torch.testing.assert_close(after.logits, before.logits[:, order], atol=1e-4, rtol=1e-4)
    expected = before.graphs[:, :, order][:, :, :, order]
    torch.testing.assert_close(after.graphs, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_graphs_of_cnns_and_vits(backbone: str) -> None:
    model = micro(backbone=backbone, neighbours=2).eval()
    graphs = model.graphs(face_batch(AUS, 4))
    assert graphs.shape == (4, 3, 5, 5)
    torch.testing.assert_close(graphs.sum(-1), torch.ones(4, 3, 5))
    assert ((graphs > 0).sum(-1) <= 3).all()


def test_graph_kinds_are_switches_of_one_model() -> None:
    rows = [[float(i == j or j == 0) for j in range(5)] for i in range(5)]
    graphs = {
        kind: micro(graph=kind, adjacency=rows if kind == "fixed" else None)
        .eval()
        .graphs(face_batch(AUS, 3))
        for kind in ("self_adjusting", "static", "fixed", "none")
    }
    assert not torch.equal(graphs["self_adjusting"][0], graphs["self_adjusting"][1])
    for kind in ("static", "fixed", "none"):
        assert torch.equal(graphs[kind][0], graphs[kind][1])
    assert torch.equal(graphs["none"][0, 0], torch.eye(5))
    torch.testing.assert_close(graphs["fixed"][0, 2, 3], torch.tensor([0.5, 0, 0, 0.5, 0]))
    assert ((graphs["static"] > 0).sum(-1) == 3).all()  # a third of five nodes, and the node itself


@pytest.mark.parametrize(
    ("kind", "by_face", "by_stage"),
    [("self_adjusting", True, True), ("static", False, True), ("fixed", False, False)],
)
def test_edges_come_and_go(kind: str, by_face: bool, by_stage: bool) -> None:
    ring = [[float(j in (i, (i + 1) % 5)) for j in range(5)] for i in range(5)]
    model = micro(graph=kind, adjacency=ring if kind == "fixed" else None)
    maps = [torch.randn(6, c, 4, 4) for c in model.backbone.channels(3)]
    edges = model.network(maps).graphs > 0
    assert bool((edges != edges[:1]).any()) == by_face
    assert bool((edges != edges[:, :1]).any()) == by_stage


@pytest.mark.parametrize(
    "args",
    [
        {"msfl": False},
        {"gating": False},
        {"handover": False},
        {"memory": "none"},
        {"afg": "full"},
        {"select": "threshold"},
        {"head": "cosine"},
        {"au_loss": "mdwa"},
        {"graph": "static"},
        {"graph": "none", "memory": "none"},
        {"stages": 1},
        {"dice_loss": 0.0, "aux_loss": 0.0},
    ],
    ids=str,
)
def test_every_option_trains(args: dict[str, object]) -> None:
    # timm starts a residual branch with a norm of zeros, which hides the branch for one step.
    backbone = {"name": "test_resnet", "args": {"zero_init_last": False}}
    model = micro(FULL, backbone=backbone, **args)
    model.prepare(statistics())
    model.loss(face_batch(n=4)).backward()
    # DDP would wait for a parameter without a gradient, and one of zeros would never move.
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    answer = model.eval().predict(face_batch(n=4))
    assert {task: tuple(v.shape) for task, v in answer.items()} == {
        "au": (4, 3), "expression": (4, 3), "va": (4, 2),
    }  # fmt: skip


def test_class_weights_come_from_the_training_part() -> None:
    model = micro(FULL)
    model.prepare(statistics())
    weight = model.losses.au.weight
    assert weight[0] > weight[1] > weight[2]
    torch.testing.assert_close(weight.mean(), torch.tensor(1.0))


def test_messages_do_not_change_their_senders() -> None:
    model = micro(gating=False, handover=False).eval()
    update = model.network.updates[0]
    nodes = torch.randn(1, 5, 8, requires_grad=True)
    graph = torch.full((1, 5, 5), 0.2)
    update(nodes, graph)[0, 0].sum().backward()
    assert nodes.grad[0, 0].any()
    assert not nodes.grad[0, 1:].any()


def test_hidden_nodes_are_told_by_their_neighbours_alone() -> None:
    network = micro(gating=False, evidence_dropout=0.999).train().network
    maps = [torch.randn(2, c, 4, 4) for c in micro().backbone.channels(3)]
    logits = network(maps).logits  # all hidden: nothing to be told from
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)
    network.eval()
    assert not torch.allclose(network(maps).logits[0], network(maps).logits[1])


def test_without_aus_one_node_per_expression() -> None:
    schema = LabelSchema(
        expressions=("neutral", "happiness", "anger", "fear"), valence_arousal=True
    )
    model = micro(schema)
    model.prepare(statistics(schema))
    batch = face_batch(schema, 4)
    model.loss(batch).backward()
    assert model.nodes == schema.expressions
    assert model.eval().graphs(batch).shape == (4, 3, 4, 4)
    torch.testing.assert_close(model.predict(batch)["expression"].sum(1), torch.ones(4))


@pytest.mark.parametrize(
    ("schema", "args", "message"),
    [
        (LabelSchema(valence_arousal=True), {}, "needs AUs or expression classes"),
        (AUS, {"neighbours": 0}, "model.neighbours"),
        (AUS, {"evidence_dropout": 1.0}, "model.evidence_dropout"),
        (AUS, {"graph": "fixed"}, "needs it"),
        (AUS, {"adjacency": [[1.0]]}, "needs it"),
        (AUS, {"graph": "fixed", "adjacency": [[1.0]]}, "5 rows of 5"),
        (AUS, {"graph": "fixed", "adjacency": [[0.0] * 5] * 5}, "no row may be all zero"),
        (AUS, {"graph": "self_adjustng"}, "self_adjusting"),
        (AUS, {"stages": 9}, "feature levels"),
    ],
)
def test_errors(schema: LabelSchema, args: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        micro(schema, **args)


def test_default_fits_the_budget_that_the_paper_implies() -> None:
    model = create_model("sacl", {"aus": list(BP4D)}).eval()
    assert sum(p.numel() for p in model.parameters()) == 13_874_805
    image = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    assert counter.get_total_flops() / 2 == pytest.approx(2.348e9, rel=1e-3)


def test_bf16_agrees_with_float32() -> None:
    model = micro(FULL, width=16).eval()
    batch = face_batch(n=4)
    exact = model.predict(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.predict(batch)
        model.train().loss(batch).backward()
    for task, value in exact.items():
        torch.testing.assert_close(rough[task], value, atol=0.1, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_graph_breaks(training: bool) -> None:
    model = micro(FULL).train(training)
    image = face_batch(n=2)["image"]
    torch._dynamo.reset()
    report = torch._dynamo.explain(model.forward)(image)
    assert (report.graph_count, report.graph_break_count) == (1, 0), report.break_reasons


@pytest.mark.slow
def test_edge_of_aus_that_always_come_together_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from cooccurrence import experiment

    start, trained = [], []
    for seed in range(5):
        found = experiment(seed, frozen_too=False)
        start.append(found["start"][-1])
        trained.append(found["trained"][-1])
        if trained.count(1) == 4:
            break  # decided
    assert trained.count(1) >= 4, trained
    assert start.count(1) < 4, start  # where a graph that is frozen at its start stays


@pytest.mark.slow
def test_edge_of_aus_that_always_come_together_rises() -> None:
    torch.manual_seed(2)
    model = Marks()
    train(model, 2)
    assert rank_of_pair(model, 2) == 1
