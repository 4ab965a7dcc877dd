"""Adapters composed with their layers compute what peft computes."""

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from emo_tiny import LLAMA
from faceaffect.models.emo_llama.adapters import LanguageLoRA, put_adapters


def adapted(
    rank: int, dropout: float = 0.0, dtype: torch.dtype = torch.float32, **changed: Any
) -> Any:
    torch.manual_seed(0)
    settings = LLAMA | changed
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    net = put_adapters(
        AutoModelForCausalLM.from_config(config).to(dtype),
        LanguageLoRA(r=rank, alpha=7.0, dropout=dropout),
    )
    for name, parameter in net.named_parameters():
        if "lora_B" in name:  # they start at zero
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def composed(net: Any) -> list[str]:
    return [name for name, module in net.named_modules() if "forward" in vars(module)]


def as_peft_does(net: Any) -> Any:
    """Return the same network with peft's own forward."""
    plain = copy.deepcopy(net)
    for module in plain.modules():
        vars(module).pop("forward", None)
    return plain


def loss_and_gradients(net: Any) -> list[torch.Tensor]:
    ids = torch.arange(60).view(3, 20)
    loss = net(input_ids=ids, labels=ids).loss
    loss.backward()
    return [loss.detach(), *(p.grad for n, p in net.named_parameters() if "lora_" in n)]


def test_composed_adapters_give_the_same_loss_and_gradients() -> None:
    net = adapted(rank=16)
    assert len(composed(net)) == 2 * 7  # every linear layer of two blocks
    for got, expected in zip(
        loss_and_gradients(net), loss_and_gradients(as_peft_does(net)), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_wide_layers_and_dropout_stay_as_peft_computes_them() -> None:
    # Two thin products beside a wide layer are cheaper.
    wide = {"hidden_size": 512, "intermediate_size": 512, "num_attention_heads": 4}
    assert not composed(adapted(rank=16, **wide, num_key_value_heads=4))
    assert composed(adapted(rank=256, **wide, num_key_value_heads=4))
    net = adapted(rank=16, dropout=0.5).train()
    torch.manual_seed(1)
    got = loss_and_gradients(net)[0]
    torch.manual_seed(1)
    assert torch.equal(got, loss_and_gradients(as_peft_does(net))[0])


@pytest.mark.parametrize("state", ["disabled", "merged", "half"])
def test_adapters_that_are_off_merged_or_in_half_precision_are_left_to_peft(state: str) -> None:
    net = adapted(16, dtype=torch.bfloat16 if state == "half" else torch.float32).eval()
    plain = as_peft_does(net)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        if state == "disabled":
            with net.disable_adapter(), plain.disable_adapter():
                got, expected = net(input_ids=ids).logits, plain(input_ids=ids).logits
        else:
            if state == "merged":
                net.merge_adapter()
                plain.merge_adapter()
            got, expected = net(input_ids=ids).logits, plain(input_ids=ids).logits
    assert torch.equal(got, expected)
