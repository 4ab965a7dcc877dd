"""The parts of EMO-LLaMA by themselves: priors, Face Info Mining, the clue aggregator."""

from typing import Any

import pytest
import torch

from emo_tiny import (
    AGGREGATOR,
    MINING,
    open_gates,
    priors,
)
from faceaffect.errors import RecipeError
from faceaffect.models.emo_llama import ClueAggregator, FaceInfoMining
from faceaffect.models.emo_llama.aggregator import AggregatorOptions
from faceaffect.models.emo_llama.mining import (
    CrossAttention,
    MiningOptions,
    PriorTokens,
    Standardized,
    upright,
)
from faceaffect.models.emo_llama.priors import REGIONS, profile


def test_landmark_regions_cover_each_point_once() -> None:
    points = [point for region in REGIONS.values() for point in region]
    assert sorted(points) == list(range(68))
    assert len(REGIONS) == 9


def test_mining_starts_as_the_identity_bit_for_bit() -> None:
    mining = FaceInfoMining(8, 12, 10, MiningOptions(**MINING))
    patches = torch.randn(3, 5, 8)
    assert torch.equal(mining(patches, priors(3)), patches)
    open_gates(mining)
    assert not torch.allclose(mining(patches, priors(3)), patches)


def test_a_face_without_priors_passes_unchanged() -> None:
    mining = FaceInfoMining(8, 12, 10, MiningOptions(**MINING)).eval()
    open_gates(mining)
    patches = torch.randn(3, 5, 8)
    prior = priors(3)
    whole = mining(patches, prior)
    prior.ok = torch.tensor([True, False, True])
    prior.map[1], prior.tokens[1], prior.landmarks[1] = torch.nan, torch.inf, torch.nan
    mined = mining(patches, prior)
    assert torch.equal(mined[1], patches[1])
    torch.testing.assert_close(mined[[0, 2]], whole[[0, 2]])
    mined.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in mining.parameters() if p.grad is not None)


@pytest.mark.parametrize("part", ["use_global", "use_local"])
def test_mining_looks_only_where_it_is_told(part: str) -> None:
    settings = {"use_global": False, "use_local": False, part: True}
    mining = FaceInfoMining(8, 12, 10, MiningOptions(**MINING, **settings)).eval()
    gate = mining.global_gate if part == "use_global" else mining.local_gate
    torch.nn.init.constant_(gate, 1.0)
    patches, prior, other = torch.randn(2, 5, 8), priors(2), priors(2, seed=1)
    before = mining(patches, prior)
    if part == "use_global":
        prior.landmarks = other.landmarks
    else:
        prior.map, prior.tokens = other.map, other.tokens
    assert torch.equal(mining(patches, prior), before)
    if part == "use_global":
        prior.map = other.map
    else:
        prior.landmarks = other.landmarks
    assert not torch.allclose(mining(patches, prior), before)


def test_where_a_face_stands_in_the_crop_is_not_mined() -> None:
    mining = FaceInfoMining(8, 12, 10, MiningOptions(**MINING, use_global=False)).eval()
    torch.nn.init.constant_(mining.local_gate, 1.0)
    patches, prior = torch.randn(2, 5, 8), priors(2)
    before = mining(patches, prior)
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    prior.landmarks = 0.5 * prior.landmarks @ turn + torch.tensor([0.2, -0.1])
    torch.testing.assert_close(mining(patches, prior), before, atol=1e-4, rtol=1e-4)
    level = upright(prior.landmarks)
    right, left = (level[:, list(REGIONS[f"{side} eye"])].mean(1) for side in ("right", "left"))
    torch.testing.assert_close(right[:, 1], left[:, 1])
    assert (right[:, 0] < left[:, 0]).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(upright(prior.landmarks), level)


def test_places_of_the_map_can_be_told_apart() -> None:
    mining = FaceInfoMining(8, 12, 10, MiningOptions(**MINING, use_local=False))
    torch.nn.init.constant_(mining.global_gate, 1.0)
    patches, prior = torch.randn(2, 5, 8), priors(2)
    before = mining(patches, prior)
    prior.map = prior.map.flip(3)
    assert not torch.allclose(mining(patches, prior), before)


def test_standardized_values_have_the_moments_of_all_known_rows() -> None:
    layer = Standardized(3)
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + 2
    known = torch.arange(50) % 4 > 0
    known[:7] = False
    assert torch.equal(layer(rows[:7], known[:7]), rows[:7])  # nothing is known yet
    for some, ok in zip(rows[7:].split(7), known[7:].split(7), strict=True):
        layer(some, ok)
    layer.eval()
    mean, deviation = rows[known].mean(0), rows[known].std(0, correction=0)
    torch.testing.assert_close(layer(rows, known), (rows - mean) / deviation, atol=1e-4, rtol=1e-4)
    assert layer.count == known.sum()  # what is only tested does not count


def test_mining_attends_by_scaled_dot_products() -> None:
    layer = CrossAttention(width=16, key_width=12, inner=32, heads=4)
    x, keys = torch.randn(2, 5, 16), torch.randn(2, 3, 12)
    query = layer.query(layer.norm(x))
    key, value = layer.key_value(layer.key_norm(keys)).chunk(2, -1)
    heads = [part.unflatten(-1, (4, 8)).transpose(1, 2) for part in (query, key, value)]
    mixed = torch.nn.functional.scaled_dot_product_attention(*heads)
    wanted = layer.out(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, keys), wanted)


def test_mining_at_the_size_of_the_dossier() -> None:
    with torch.device("meta"):
        mining = FaceInfoMining(1408, 256, 256)
    # Two attentions of 1408 to 256 at 512 and nine region projections: about 3.46 M.
    assert sum(p.numel() for p in mining.parameters()) == pytest.approx(3.46e6, rel=0.01)


def test_prior_tokens_are_zero_without_a_face() -> None:
    tokens = PriorTokens(12, 16)
    prior = priors(2)
    prior.ok[0] = False
    out = tokens(prior)
    assert out.shape == (2, 2, 16)
    assert not out[0].any()
    assert out[1].any()


def test_profiles_vote_and_stay_silent_when_unsure() -> None:
    names = {"age": ("young", "old"), "gender": ("woman", "man")}
    sure, unsure = torch.tensor([0.0, 9.0]), torch.tensor([0.01, 0.0])
    groups = {"age": torch.stack([sure, sure, sure.flip(0)]), "gender": torch.stack([unsure] * 3)}
    ok = torch.tensor([True, True, True])
    assert profile(groups, ok, names, 0.5) == "Estimated subject profile: old, woman."
    assert profile(groups, ok, names, 0.6) == "Estimated subject profile: old."
    assert profile(groups, ~ok, names, 0.5) == ""


# Clue aggregator


def aggregator(content: str = "mean", **changes: Any) -> ClueAggregator:
    torch.manual_seed(0)
    options = AggregatorOptions(content=content, **AGGREGATOR, **changes)
    return ClueAggregator(16, 1, 20, options, 50).eval()


@pytest.mark.parametrize(
    ("content", "count"), [("mean", 2), ("grid:2", 5), ("grid:4", 17), ("none", 257)]
)
def test_token_counts(content: str, count: int) -> None:
    clues = aggregator(content)
    tokens = torch.randn(3, 257, 16)
    text, mask = torch.ones(3, 4, dtype=torch.long), torch.ones(3, 4, dtype=torch.bool)
    total = clues.content(tokens).shape[1] + clues.context(tokens, text, mask).shape[1]
    assert total == count == clues.tokens_per_frame(256)


@pytest.mark.parametrize("content", ["grid", "grid:0", "max", "grid:2x2"])
def test_unknown_content_is_refused(content: str) -> None:
    with pytest.raises(RecipeError, match="none, mean or grid:G"):
        aggregator(content)


def test_dropout_out_of_range_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model.aggregator.dropout: 1.5 is not in \[0, 1\)"):
        ClueAggregator(16, 1, 16, AggregatorOptions(dropout=1.5), 50)


def test_a_question_changes_the_context() -> None:
    clues = aggregator()
    tokens = torch.randn(2, 5, 16)
    mask = torch.ones(2, 4, dtype=torch.bool)
    one, two = (
        torch.randint(0, 50, (2, 4), generator=torch.Generator().manual_seed(s)) for s in (0, 1)
    )
    assert not torch.allclose(clues.context(tokens, one, mask), clues.context(tokens, two, mask))


def test_the_context_token_as_the_dossier_writes_it() -> None:
    clues = aggregator()
    tokens, text = torch.randn(2, 5, 16), torch.randint(0, 50, (2, 4))
    mask = torch.ones(2, 4, dtype=torch.bool)
    read = clues.qformer(
        input_ids=text,
        attention_mask=torch.ones(2, 8),
        query_embeds=clues.queries.expand(2, -1, -1),
        encoder_hidden_states=clues.norm(tokens),
    ).last_hidden_state[:, :4]
    patches = tokens[:, 1:]
    attention = (clues.to_vision(read) @ clues.key(patches).mT / 4.0).softmax(-1)
    expected = clues.value((attention @ patches).mean(1))
    torch.testing.assert_close(clues.context(tokens, text, mask)[:, 0], expected)


def test_padding_of_a_question_changes_nothing() -> None:
    clues = aggregator()
    tokens, text = torch.randn(1, 5, 16), torch.randint(0, 50, (1, 4))
    known = torch.ones(1, 4, dtype=torch.bool)
    padded = torch.cat([text, torch.zeros(1, 3, dtype=torch.long)], 1)
    mask = torch.cat([known, torch.zeros(1, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(
        clues.context(tokens, text, known),
        clues.context(tokens, padded, mask),
        atol=1e-6,
        rtol=1e-5,
    )


def test_grid_pooling_follows_the_patches() -> None:
    clues = aggregator("grid:2")
    tokens = torch.zeros(1, 17, 16)
    tokens[0, 1 + 3 * 4 + 3] = 1.0  # the patch at the bottom right
    blank = clues.content(torch.zeros(1, 17, 16))
    changed = (clues.content(tokens) - blank).abs().sum(-1)[0] > 0
    assert changed.tolist() == [False, False, False, True]
