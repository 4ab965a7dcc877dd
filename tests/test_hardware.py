"""Precision is the machine's: what ``auto`` takes, what is obeyed, what is said."""

import os
import subprocess
import sys
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from timm.optim import muon as timm_muon
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from faceaffect import hardware, optim
from faceaffect.errors import RecipeError
from faceaffect.optim import Optim

CPU = {"accelerator": "cpu"}


def machine(monkeypatch: pytest.MonkeyPatch, mkldnn: bool, **known: bool) -> None:
    """Let the processor have these instructions, and oneDNN use bfloat16 or not."""
    monkeypatch.setattr(hardware, "_onednn_takes_bfloat16", lambda: mkldnn)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)


@pytest.mark.parametrize(
    ("mkldnn", "known", "taken"),
    [
        (True, {"avx512_bf16": True}, "bf16-mixed"),
        (True, {"amx_bf16": True}, "bf16-mixed"),
        (True, {"avx512_bf16": False, "avx512_f": True}, "32-true"),  # oneDNN emulates here
        (False, {"avx512_bf16": True}, "32-true"),  # there, but oneDNN is told not to
        (False, {}, "32-true"),
    ],
)
def test_auto_takes_bfloat16_only_where_a_cpu_computes_it(
    monkeypatch: pytest.MonkeyPatch, mkldnn: bool, known: dict[str, bool], taken: str
) -> None:
    machine(monkeypatch, mkldnn, **known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hardware.precision_for(CPU | {"precision": "auto"})
    assert found.name == taken
    assert found.why.startswith("auto: ")
    with hardware.building_for(torch.device("cpu")):
        dtype = hardware.choose_dtype("auto", "model.llm.dtype")
    assert hardware.PRECISIONS[dtype] == taken


@pytest.mark.parametrize(
    ("capability", "taken"), [((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed"), ((7, 5), "16-mixed")]
)
def test_auto_on_a_gpu_goes_by_its_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], taken: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert hardware.precision_for({"precision": "auto"}).name == taken
    assert hardware.precision_for({"precision": "auto", "accelerator": "cuda"}).name == taken


def test_a_named_precision_is_obeyed_and_an_emulated_one_earns_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, False)
    hardware.warn_emulated.cache_clear()
    with pytest.warns(UserWarning, match="bf16-mixed is emulated.*would take 32-true") as caught:
        found = [hardware.precision_for(CPU | {"precision": "bf16-mixed"}) for _ in range(3)]
    assert len(caught) == 1
    assert found[0].name == "bf16-mixed"
    assert hardware.precision_for(CPU | {"precision": "64-true"}).name == "64-true"
    assert hardware.precision_for(CPU).name == "32-true"


def test_an_unknown_precision_is_one_error() -> None:
    with pytest.raises(RecipeError, match=r"trainer.precision: .*'bf16-mixd'.*'bf16-mixed'"):
        hardware.precision_for({"precision": "bf16-mixd"})


def test_this_machine_is_asked_through_private_names_that_are_still_there() -> None:
    """PyTorch has no public way to ask; this fails when the private one goes."""
    assert isinstance(hardware._onednn_takes_bfloat16(), bool)
    command = (
        "from faceaffect.hardware import precision_for;"
        "print(precision_for({'precision': 'auto', 'accelerator': 'cpu'}).name)"
    )
    limits = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    answer = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | limits,
    )
    assert answer.stdout.strip() == "32-true"


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_muon_iterates_in_what_the_machine_computes(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool
) -> None:
    machine(monkeypatch, has_bfloat16, avx512_bf16=True)
    seen: list[Any] = []
    iterate = timm_muon.zeropower_via_newtonschulz

    def watch(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["dtype"])
        return iterate(*args, **kwargs)

    monkeypatch.setattr(timm_muon, "zeropower_via_newtonschulz", watch)
    layer = nn.Linear(4, 6)
    optimizer = Optim(name="muon", lr=0.1).optimizer([{"params": list(layer.parameters())}])
    generator = torch.Generator().manual_seed(0)
    given, wanted = (torch.randn(8, n, generator=generator) for n in (4, 6))
    (layer(given) * wanted).sum().backward()
    before = layer.weight.detach().clone()
    optimizer.step()
    assert seen == [torch.bfloat16 if has_bfloat16 else torch.float32]
    assert timm_muon.zeropower_via_newtonschulz is watch  # nothing is left behind
    change = (before - layer.weight.detach()).float()
    values = torch.linalg.svdvals(change)
    given_values = torch.linalg.svdvals(layer.weight.grad)
    assert given_values[-1] < 0.5 * given_values[0]
    assert values[-1] > 0.5 * values[0]  # Newton-Schulz brings all of them near each other


@pytest.mark.skipif(sys.platform != "linux", reason="a call of glibc")
def test_memory_that_a_step_frees_is_kept_for_the_next_one() -> None:
    code = """
import resource, sys
import torch
from faceaffect.hardware import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():  # what a layer leaves for the backward pass, 16 blocks of 4 MB
    kept = [torch.ones(2**20) for _ in range(16)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    # Left to itself glibc moves this threshold as it goes.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    pages = {
        how: int(subprocess.check_output([sys.executable, "-c", code, how], env=environment))
        for how in ("kept", "given back")
    }
    assert pages["kept"] < 0.1 * pages["given back"]


@pytest.mark.parametrize("shape", [(128, 300), (512, 128), (128, 160), (64, 256)])
def test_muon_multiplies_less_for_the_same_step(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    """Also where singular values of the gradient are far below what float32 tells apart."""
    machine(monkeypatch, False)
    generator = torch.Generator().manual_seed(0)
    u, values, v = torch.linalg.svd(torch.randn(*shape, generator=generator), full_matrices=False)
    gradient = u * torch.logspace(0, -9, len(values)) @ v
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = gradient.clone()
    optimizer = Optim(name="muon", lr=1.0, weight_decay=0, momentum=0).optimizer(
        [{"params": [weight]}]
    )
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    plain = partial(
        timm_muon.zeropower_via_newtonschulz,
        steps=5,
        coefficients=timm_muon._COEFFICIENTS["quintic"],
    )
    with FlopCounterMode(display=False) as usual:
        plain(gradient, dtype=torch.float32)
    scale = timm_muon.get_lr_scale(weight.shape)
    exact = plain(gradient.double(), dtype=torch.float64)
    assert (-weight / scale - exact).norm() < 1e-3 * exact.norm()
    less = min(shape) >= 128 and max(shape) >= 2 * min(shape)
    assert (counter.get_total_flops() < usual.get_total_flops()) == less


def test_a_step_of_muon_that_fails_does_not_break_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def step() -> None:
        weight = nn.Parameter(torch.zeros(128, 256))
        weight.grad = torch.ones(128, 256)
        Optim(name="muon").optimizer([{"params": [weight]}]).step()

    of_timm = timm_muon.zeropower_via_newtonschulz
    with monkeypatch.context() as patch:
        machine(patch, False)
        patch.setattr(optim, "by_products", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            step()
    for has_bfloat16 in (True, False):
        machine(monkeypatch, has_bfloat16, avx512_bf16=True)
        step()
    assert timm_muon.zeropower_via_newtonschulz is of_timm
