"""The ways that are measured: launch shapes of Triton kernels, attention's backends, the clock."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from comparison import same
from kernel_cases import type_of

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported
pytest.importorskip("triton")

import lazytorch as lt
from lazytorch.errors import CompilerError
from lazytorch.ir import Builder, Graph, Op, input
from lazytorch.lower.call import KernelCall
from lazytorch.lower.kernel import Kernel
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton import kernel as kernel_file
from lazytorch.lower.triton.binary import interpreting
from lazytorch.lower.triton.scale import VARIANTS, Scale
from lazytorch.ops.attention import RandomScaledDotProductAttention, ScaledDotProductAttention
from lazytorch.ops.elementary import Exp
from lazytorch.ops.fused import Fused
from lazytorch.ops.norm import LayerNorm
from lazytorch.ops.pointwise import Add, Mul
from lazytorch.ops.reduce import Softmax
from lazytorch.options import Environment
from lazytorch.runtime import timing, tune
from lazytorch.runtime.timing import medians
from lazytorch.runtime.tune import Tuner, built
from lazytorch.types import TensorType, tensor_type

DEVICE = "cpu" if interpreting() else "cuda"
b = Builder()


def group(build: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> Fused:
    """The operations that `build` makes of the operands, as one group."""
    inputs = [input(f"a{k}", type_of(x)) for k, x in enumerate(tensors)]
    return Fused(Graph(tuple(inputs), (build(*inputs),)))


def elements(x: Any, y: Any) -> Any:
    return b(Exp(), b(Mul(), b(Add(), x, y), x))


def softmax(x: Any, y: Any) -> Any:
    return b(Softmax(-1), b(Mul(), x, y))


def layer_norm(x: Any, y: Any) -> Any:
    return b(Add(), b(LayerNorm((x.type.shape[-1],), 1e-5, False, False), x), y)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).to(DEVICE)


GROUPS: dict[str, tuple[Callable[..., Any], torch.Tensor, torch.Tensor]] = {
    "one loop": (elements, random(1001), random(1001)),
    "runs": (elements, random(13, 48), random(48)),
    "tiles": (elements, random(70, 50), random(50, 70).t()),
    "short rows": (softmax, random(300, 5), random(5)),
    "many short rows": (layer_norm, random(1500, 33), random(33)),
    "rows": (layer_norm, random(3, 900), random(3, 900)),
    "rows beside each other": (softmax, random(40, 200).t(), random(40, 200).t()),
    "long rows": (layer_norm, random(2, 20000), random(20000)),
    "long rows' sums": (softmax, random(2, 20000), random(20000)),
}


@pytest.mark.parametrize("label", GROUPS)
def test_every_launch_shape_computes_what_eager_does(label: str) -> None:
    compare(*GROUPS[label])


def test_launch_shapes_of_large_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_file, "LARGE", 1000)
    compare(*GROUPS["one loop"])


def compare(build: Callable[..., Any], *tensors: torch.Tensor) -> list[str]:
    """Checks each launch shape's kernel; their sources."""
    op, types = group(build, tensors), tuple(map(type_of, tensors))
    target = TritonTarget()
    kernels = [target.prepare(op, types), *target.variants(op, types)]
    assert len(kernels) >= 3 and len({x.name for x in kernels}) == len(kernels)
    numbers = [x.variant for x in kernels]
    assert numbers == sorted(set(numbers)) and numbers[0] == 0
    target.build(kernels)
    for kernel in kernels:
        result = target.launcher(kernel, op, types)(*tensors)
        assert isinstance(result, torch.Tensor)
        expected = op.run(*tensors)
        torch.testing.assert_close(result, expected, rtol=2e-5, atol=2e-6)
        assert result.stride() == expected.stride()
    return [x.source for x in kernels]


def test_scales_stay_within_their_bounds() -> None:
    assert VARIANTS[0] == Scale() and Scale().size_of(64, 1) == 64
    assert [Scale(warps=k).warps_of(4) for k in (-3, -1, 0, 1, 3)] == [1, 2, 4, 8, 16]
    assert Scale(warps=1).warps_of(32) == 32
    assert [Scale(size=k).size_of(4, 8) for k in (-3, -1, 0, 1, 2)] == [1, 2, 4, 8, 4]


def test_a_launch_shape_that_does_not_compile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    build, *tensors = GROUPS["runs"]
    op, types = group(build, tensors), tuple(map(type_of, tensors))
    target = TritonTarget()
    kernels = target.variants(op, types)
    compile = target.binaries.compile

    def refuse(kernel: Kernel, index: int, aligned: bool) -> Any:
        if kernel.variant == 2:
            raise CompilerError("too much shared memory")
        return compile(kernel, index, aligned)

    monkeypatch.setattr(target.binaries, "compile", refuse)
    assert [x.variant for x in built(target, kernels)] == [1, 3, 4]


def pretend(fast: str, met: list[list[str]]) -> Callable[..., dict[str, float]]:
    """Stands for `measure`; the way `fast` is it."""

    def measure(ways: dict[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
        met.append(list(ways))
        return {name: 1e-6 if name == fast else 2e-6 for name in ways}

    return measure


def test_a_faster_launch_shape_stays_and_is_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build, *tensors = GROUPS["tiles"]
    op, types = group(build, tensors), tuple(map(type_of, tensors))
    met: list[list[str]] = []
    monkeypatch.setattr(tune, "measure", pretend("generated/3", met))
    for _ in range(2):  # of which the second is a later process
        target, tuner = TritonTarget(), Tuner(Environment(tmp_path, None))
        call = KernelCall(op, types, target.prepare(op, types), target)
        own = call.kernel
        if tuner.recall(call):
            target.build([call.kernel])
            call.swap()
        else:
            target.build([own])
            tuner.prepare([call])
            tuner.offer(call)
        torch.testing.assert_close(call.call(*tensors), op.run(*tensors))
        assert (call.kernel.variant, call.kernel.name != own.name) == (3, True)
    every = ["generated", *[f"generated/{k}" for k in (1, 2, 3, 4)], "torch"]
    assert met == [every]


def test_launch_shapes_are_tried_by_compiled_functions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LAZYTORCH_CACHE", str(tmp_path))
    monkeypatch.setattr("lazytorch.runtime.build.target_for", lambda *_: TritonTarget())
    met: list[list[str]] = []
    monkeypatch.setattr(tune, "measure", pretend("generated/1", met))

    def function(x: torch.Tensor) -> torch.Tensor:
        return (x * 2).tanh() + x

    x = random(13, 48)
    for _ in range(2):
        fast = lt.compile(function, wait=True, tune=True)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), function(x))
        assert [call.kernel.variant for call in fast.programs()[0].main.calls] == [1]
        assert "generated/1 runs" in fast.explain()
    assert len(met) == 1


# Attention.


def on_gpu(*shape: int) -> TensorType:
    return tensor_type(shape, torch.float16, torch.device("cuda", 0))


QKV = (on_gpu(2, 4, 8, 16), on_gpu(2, 4, 8, 16), on_gpu(2, 4, 8, 16))


@pytest.mark.parametrize(
    ("op", "xs", "names"),
    [
        (
            ScaledDotProductAttention(),
            QKV,
            ["flash_attention", "cudnn_attention", "efficient_attention"],
        ),
        (ScaledDotProductAttention(), (*QKV, on_gpu(8, 8)), ["efficient_attention"]),
        (
            ScaledDotProductAttention(kernels=("MATH", "FLASH_ATTENTION")),
            QKV,
            ["flash_attention"],
        ),
        (ScaledDotProductAttention(kernels=("FLASH_ATTENTION",)), QKV, []),
        (RandomScaledDotProductAttention(dropout_p=0.5), QKV, []),
        (ScaledDotProductAttention(), (tensor_type((2, 4, 8, 16)),) * 3, []),
    ],
)
def test_attentions_backends_are_those_that_are_enabled_and_safe(
    op: Op, xs: tuple[TensorType, ...], names: list[str]
) -> None:
    found = op.alternatives(*xs)
    assert list(found) == names
    for name, other in found.items():
        assert other == op.with_attributes(kernels=(name.upper(),))


@pytest.mark.parametrize("turned", [False, True])
def test_the_faster_backend_stays_where_it_lays_its_result_out_alike(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, turned: bool
) -> None:
    monkeypatch.setenv("LAZYTORCH_CACHE", str(tmp_path))
    met: list[list[str]] = []
    monkeypatch.setattr(tune, "measure", pretend("math", met))
    monkeypatch.setattr(
        ScaledDotProductAttention,
        "alternatives",
        lambda self, *_: {"math": self.with_attributes(kernels=("MATH",))},
    )

    def attention(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, k) @ k.mT

    q, k = (torch.randn(2, 4, 8, 16) for _ in range(2))
    if turned:  # the flash kernel's result then lies as the query does
        q = q.transpose(1, 2).contiguous().transpose(1, 2)
    for _ in range(2):
        fast = lt.compile(attention, wait=True, tune=True)
        with torch.no_grad():
            for _ in range(2):
                same(fast(q, k), attention(q, k))
        (call,) = fast.programs()[0].main.library
        assert call.settled and call.measured is not None
        assert call.measured.chosen == ("torch" if turned else "math")
        assert "scaled_dot_product_attention: torch" in fast.explain()
    assert met == [["torch"] if turned else ["torch", "math"]]


def test_without_tune_a_library_call_runs_torchs_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "measure", None)
    monkeypatch.setattr(
        ScaledDotProductAttention,
        "alternatives",
        lambda self, *_: {"math": self.with_attributes(kernels=("MATH",))},
    )
    q = torch.randn(2, 4, 8, 16)
    attention = torch.nn.functional.scaled_dot_product_attention
    fast = lt.compile(lambda q: attention(q, q, q), wait=True)
    with torch.no_grad():
        same(fast(q), attention(q, q, q))
    (call,) = fast.programs()[0].main.library
    assert call.settled and call.call == call.op.run


# The clock.


def test_samples_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ENOUGH", 1e9)
    order: list[str] = []
    times = {"a": iter([5.0, 1.0, 1.0] * 5), "b": iter([2.0, 2.0, 9.0] * 5)}

    def sample(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or next(times[name])

    assert medians({name: sample(name) for name in times}) == {"a": 1.0, "b": 2.0}
    assert order[:6] == ["a", "b", "b", "a", "a", "b"]


def test_long_samples_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ENOUGH", 0)
    taken: list[int] = []
    medians({"a": lambda: float(taken.append(1) is None)})
    assert len(taken) == timing.ROUNDS[1]


def test_each_way_is_timed_on_the_cpu() -> None:
    found = timing.measure({"a": lambda: X.exp(), "b": lambda: X + 1}, torch.device("cpu"))
    assert list(found) == ["a", "b"] and min(found.values()) > 0


X = torch.randn(5)


class Graph_:
    """Stands for a CUDA graph; each replay takes 6 us."""

    def replay(self) -> None:
        Event.now += 6e-3


class Event:
    """Stands for a CUDA event, in milliseconds."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None:
        """Nothing is under way."""

    def elapsed_time(self, other: Event) -> float:
        return other.at - self.at


@pytest.mark.parametrize("captured", [True, False])
def test_a_gpus_time_is_that_of_replays_if_there_can_be_any(
    monkeypatch: pytest.MonkeyPatch, captured: bool
) -> None:
    calls: list[int] = []

    def way() -> None:
        calls.append(1)
        Event.now += 0.5  # ms, with what Python adds

    def capture(pool: object, graph: object, call: Callable[[], object]) -> tuple[object, None]:
        if not captured:
            raise RuntimeError("operation not permitted when stream is capturing")
        return call(), None

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph_)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(timing, "capture", capture)
    monkeypatch.setattr(timing, "pool_of", lambda device: None)
    seconds = timing.on_gpu(way, torch.device("cuda", 0))()
    # Four calls of half a millisecond fill a sample; captured, they replay in 6 us.
    assert seconds == pytest.approx(1.5e-6 if captured else math.inf)
    assert len(calls) == (2 + 4 if captured else 2)
