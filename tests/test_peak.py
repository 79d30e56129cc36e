"""The estimate of memory; copies of weights stay within eager's unless they are asked for."""

import json
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.devices import Device
from lazytorch.ir import Graph
from lazytorch.lower import workspaces
from lazytorch.lower.optimize import optimize
from lazytorch.ops.library import Libraries, libraries
from lazytorch.peak import Footprint, eager_peak, footprint
from lazytorch.runtime.allocations import peak as measured
from lazytorch.text import parse
from lazytorch.view.memory import missing

onednn = pytest.mark.skipif(torch.float32 not in libraries().onednn, reason="no oneDNN here")


def graph(text: str) -> Graph:
    return parse(dedent(text))


X = "graph(%x: f32[4, 8]"  # 128 bytes


@pytest.mark.parametrize(
    ("text", "eager", "ours"),
    [
        (f"{X}) {{ return %x }}", 0, 128),
        (f"{X}) {{ %0 = exp %x return %0 }}", 128, 128),
        (f"{X}) {{ %0 = exp %x %1 = exp %0 return %1 }}", 128, 256),
        (f"{X}) {{ %0 = exp %x %1 = exp %0 %2 = exp %1 return %2 }}", 128, 256),
        (f"{X}) {{ %0 = exp %x %1 = exp %0 %2 = add %0 %1 return %2 }}", 256, 384),
        (f"{X}) {{ %0 = exp %x %1 = exp %0 return %0, %1 }}", 256, 256),
        (f"{X}) {{ %0 = exp %x %1 = softmax{{dim=-1}} %0 return %1 }}", 256, 256),
        (f"{X}) {{ %0 = exp %x %1 = sum{{dims=(0,)}} %0 %2 = exp %1 return %2 }}", 160, 160),
        (f"{X}) {{ %0 = exp %x %1 = reshape{{shape=(32,)}} %0 return %1 }}", 128, 128),
        (f"{X}) {{ %0 = permute{{perm=(1, 0)}} %x %1 = reshape{{shape=(32,)}} %0 return %1 }}",
         128, 128),
        (f"{X}) {{ %0 = exp %x %1 = reshape{{shape=(32,)}} %0 %2 = exp %0 %3 = exp %1 "
         "return %2, %3 }", 256, 384),
    ],
    ids=[
        "an input returned is copied", "one operation", "in place", "in place twice",
        "read again later", "returned", "not elementwise", "smaller", "a view", "a copying reshape",
        "a view keeps its base",
    ],
)  # fmt: skip
def test_bytes_alive_at_once(text: str, eager: int, ours: int) -> None:
    assert eager_peak(graph(text)) == eager
    assert footprint(graph(text)) == Footprint(0, 0, ours)


def test_the_elements_of_a_tuple_die_when_the_last_one_is_taken() -> None:
    text = """
        graph(%x: f32[4, 8]) {
          %0 = max_dim{dim=0} %x
          %1 = item{index=0} %0
          %2 = exp %1
          %3 = item{index=1} %0
          return %2, %3
        }"""
    assert footprint(graph(text)).call == 32 + 64 + 32


def test_what_the_prologue_keeps_counts_but_views_of_parameters_do_not() -> None:
    text = """
        graph(%x: f32[4, 8], %w: f32[4, 8] state) {
          %0 = exp %w
          %1 = exp %0
          %2 = reshape{shape=(8, 4)} %w
          %3 = matmul %x %2
          %4 = matmul %3 %1
          return %4
        }"""
    found = footprint(graph(text))
    assert found == Footprint(128, 256, 64 + 128)
    assert found.total == 128 + 64 + 128


class Block(nn.Module):
    """A residual block with a projection, as ResNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.second = nn.Conv2d(8, 16, 1, bias=False)
        self.project = nn.Conv2d(3, 16, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (8, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms[0](self.first(x)).relu()
        y = self.norms[1](self.second(y))
        z = self.norms[2](self.project(x))
        return (y + z).relu().amax((2, 3))


@onednn
def test_copies_stay_within_eagers_peak_and_freeze_makes_them() -> None:
    net, x = Block().eval(), torch.randn(1, 3, 32, 32)
    traced = lt.trace(net, x)
    default, frozen = optimize(traced, freeze=False), optimize(traced, freeze=True)
    weights = sum(m.weight.nbytes for m in net.modules() if isinstance(m, nn.Conv2d))
    vectors = 2 * 4 * (8 + 16 + 16)  # scale and shift of each norm
    assert footprint(default).kept == vectors < weights <= footprint(frozen).kept
    assert footprint(default).total <= eager_peak(traced) + vectors
    plain, fast = (lt.compile(net, wait=True, freeze=freeze) for freeze in (False, True))
    with torch.no_grad():
        for f in (plain, fast):
            torch.testing.assert_close(f(x), net(x), rtol=1e-4, atol=1e-5)
        kept = sum(v.nbytes for s in plain.programs() for v in s.values if not v.is_mkldnn)
        assert kept + measured(lambda: plain(x), x.device) <= measured(lambda: net(x), x.device)
    assert "freeze=True" in plain.explain() and "would exceed" in plain.explain()
    assert "as freeze=True asks" in fast.explain()


@onednn
def test_what_eagers_peak_leaves_is_used_for_packed_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.softmax(0)  # what follows is one kernel here, and has intermediates in eager
            return self.conv(y.exp() * y.tanh() + y.sigmoid())

    traced = lt.trace(Net().eval(), torch.randn(3, 4, 20, 20))
    graph = optimize(traced, freeze=False)
    assert "packed_convolution" in str(graph)
    assert footprint(graph).total <= eager_peak(traced)


def test_explain_names_the_library_that_is_missing() -> None:
    text = """
        graph(%x: f32[4, 8], %y: bf16[4, 8], %w: f32[8, 8] state, %v: bf16[8, 8] state) {
          %0 = linear %x %w
          %1 = linear %0 %w
          %2 = linear %y %v
          return %1, %2
        }"""
    assert list(missing(graph(text), Libraries(frozenset(), mkl=False, threads=1))) == [
        "linear layers in f32 run on plain weights: MKL packs none here",
        "linear layers in bf16 run on plain weights: oneDNN packs none here",
    ]
    both = Libraries(frozenset((torch.bfloat16,)), mkl=True, threads=1)
    assert list(missing(graph(text), both)) == []


GPU = """
graph(%x: f16[1, 8, 16, 16] on cuda:0, %w: f16[8, 8, 3, 3] on cuda:0 state) {
  %0 = convolution{stride=(1, 1), dilation=(1, 1), padding=(1, 1)} %x %w
  %1 = relu %0
  %2 = convolution{stride=(1, 1), dilation=(1, 1), padding=(1, 1)} %1 %w
  %3 = exp %2
  %4 = tanh %2
  %5 = mul %3 %4
  %6 = mul %5 %2
  %7 = sum{dims=(1, 2, 3)} %6
  return %7
}
"""


@onednn
def test_the_indices_of_a_pool_count() -> None:
    """Torch makes them, though nothing reads them: what is packed beside them is less."""
    layers = [
        x for _ in range(6) for x in (nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU())
    ]
    first = (nn.Conv2d(3, 32, 7, 2, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    net, x = nn.Sequential(*first, *layers).eval(), torch.randn(2, 3, 64, 64)
    fast = lt.compile(net, wait=True)
    with torch.no_grad():
        net(x), fast(x)
        eager, ours = (measured(lambda fn=fn: fn(x), x.device) for fn in (net, fast))
    plan = fast.memory(x)
    assert ours == max(plan.levels[plan.prologue_lines :]) - plan.prologue
    assert ours + plan.prologue <= eager + 4096  # the vectors of norms do not count
    assert plan.prologue > 4096


@pytest.mark.parametrize("numerics", ["fast", "eager"])
@pytest.mark.parametrize(("size", "fits"), [(3, True), (15, False)])
def test_on_a_gpu_too_weights_are_copied_within_eagers_peak_or_with_freeze(
    numerics: str, size: int, fits: bool
) -> None:
    text = GPU.replace("3, 3]", f"{size}, {size}]").replace(
        "(1, 1)}", f"({size // 2}, {size // 2})}}"
    )
    graph = parse(text)
    weight = 8 * 8 * size * size * 2
    assert (2 * weight <= eager_peak(graph)) == fits
    default, frozen = (optimize(graph, freeze, numerics) for freeze in (False, True))
    assert ("cudnn" in str(frozen)) == (numerics == "fast")
    assert ("cudnn" in str(default)) == (numerics == "fast" and fits)
    assert footprint(default).total <= eager_peak(graph)


CONVOLVED = """
graph(%x: f32[1, 3, 8, 8], %w: f32[4, 3, 3, 3] state) {
  %0 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %w
  %1 = relu %0
  return %1
}
"""


def test_workspaces_of_a_known_device_are_in_the_estimates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = graph(CONVOLVED)
    (convolution,) = [x for x in found.nodes if x.op.name() == "convolution"]
    table = {"device": "NVIDIA X9", "stays": 0, "calls": {workspaces.call_key(convolution): 5000}}
    (tmp_path / "x9.json").write_text(json.dumps(table))
    monkeypatch.setattr(workspaces, "FOLDER", tmp_path)
    known, other = (workspaces.taking(Device(name, "cuda")) for name in ("X9", "X8"))
    assert [known(x) for x in found.nodes] == [5000 if x is convolution else 0 for x in found.nodes]
    assert eager_peak(found, known) - eager_peak(found) == 5000
    assert footprint(found, known).call == 1024 + 5000
    assert eager_peak(found, other) == eager_peak(found)
