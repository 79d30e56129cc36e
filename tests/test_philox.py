"""Dropout that generated kernels draw themselves: torch's very numbers, wherever they are wanted.

`TRITON_INTERPRET=0 pytest tests/test_philox.py` runs the same on a GPU, beside torch's own kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported
pytest.importorskip("triton")

import lazytorch as lt
from lazytorch.devices import device_named
from lazytorch.errors import UnsupportedError
from lazytorch.ir import Builder, Graph, Node, input
from lazytorch.lower.kernel import Launch
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton.binary import interpreting
from lazytorch.ops.copies import Cat, Clone
from lazytorch.ops.fused import Fused
from lazytorch.ops.norm import LayerNorm
from lazytorch.ops.philox import (
    Dropout,
    PhiloxMask,
    PhiloxState,
    bound_of,
    factor_of,
    increment_of,
    philox,
    vector_of,
)
from lazytorch.ops.random import NativeDropout
from lazytorch.ops.reduce import Sum
from lazytorch.types import TensorType, tensor_type

DEVICE = torch.device("cpu") if interpreting() else torch.device("cuda", 0)
RESIDENT = 1536 if interpreting() else device_named("cuda").resident
"""Few, so that threads come round: small tensors are what the interpreter has time for."""


def kind(*shape: int, dtype: torch.dtype = torch.float32) -> TensorType:
    return tensor_type(shape, dtype, DEVICE)


def mask(b: Builder, x: TensorType, seed: Node, offset: Node) -> Node:
    vector = vector_of(x)
    assert vector is not None
    return b(PhiloxMask(x.shape, x.strides, bound_of(0.7), vector, RESIDENT), seed, offset)


def kernel(op: Fused, types: tuple[TensorType, ...]) -> Launch:
    target = TritonTarget()
    found = target.prepare(op, types)
    target.build([found])
    return target.launcher(found, op, types)


def same(build: Callable[[Builder, Node, Node, Node], tuple[Node, ...]], x: TensorType) -> None:
    """A kernel computes what torch computes one by one, for a seed of 64 bits and a late offset."""
    state = tensor_type((), torch.int64, DEVICE)
    inputs = (input("x", x), input("seed", state), input("offset", state))
    op = Fused(Graph(inputs, build(Builder(), *inputs)))
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randn(x.shape, generator=generator).to(DEVICE, x.dtype)
    given = torch.empty_strided(x.shape, x.strides, dtype=x.dtype, device=DEVICE).copy_(numbers)
    for seed, offset in ((-(2**62) - 5, 2**34 + 8), (17, 0)):
        known = [torch.tensor(n, dtype=torch.int64, device=DEVICE) for n in (seed, offset)]
        types = (x, state, state)
        got, wanted = kernel(op, types)(given, *known), op.run(given, *known)
        for ours, theirs in zip(
            *[x if isinstance(x, tuple) else (x,) for x in (got, wanted)], strict=True
        ):
            if ours.dtype is torch.bool:
                assert torch.equal(ours, theirs)
                assert ours.numel() < 100 or 0.5 < ours.double().mean().item() < 0.9
            torch.testing.assert_close(
                ours, theirs, rtol=2e-2 if x.dtype is torch.bfloat16 else 1e-5, atol=1e-5
            )


def dropped(b: Builder, x: Node, seed: Node, offset: Node) -> tuple[Node, Node]:
    assert isinstance(x.type, TensorType)
    kept = mask(b, x.type, seed, offset)
    return b(Dropout(factor_of(0.7)), x, kept), kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4,), (4096,), (3, 1000), (24, 33), (7, 3, 20)])
def test_elements_in_a_row(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    same(dropped, kind(*shape, dtype=dtype))


def test_a_permuted_tensor_is_drawn_in_the_order_of_its_memory() -> None:
    same(dropped, kind(20, 36).with_strides((1, 20)))
    same(dropped, kind(2, 8, 5, 6).with_strides((240, 1, 48, 8)))


def test_a_kernel_that_reads_across() -> None:
    def build(b: Builder, x: Node, seed: Node, offset: Node) -> tuple[Node, ...]:
        return (b(Clone((1, 64)), dropped(b, x, seed, offset)[0]),)

    same(build, kind(64, 32))


@pytest.mark.parametrize("size", [64, 1000, 30, 17408])
def test_rows_with_a_norm(size: int) -> None:
    def build(b: Builder, x: Node, seed: Node, offset: Node) -> tuple[Node, ...]:
        product, kept = dropped(b, x, seed, offset)
        return b(LayerNorm((size,), 1e-5, False, False), product), kept

    same(build, kind(6, size))


@pytest.mark.parametrize("size", [1000, 20480])
def test_rows_that_are_walked(size: int) -> None:
    def build(b: Builder, x: Node, seed: Node, offset: Node) -> tuple[Node, ...]:
        return (b(Sum((1,), True), dropped(b, x, seed, offset)[0]),)

    same(build, kind(4, size))


def test_rows_beside_each_other() -> None:
    def build(b: Builder, x: Node, seed: Node, offset: Node) -> tuple[Node, ...]:
        return (b(Sum((1,), True), dropped(b, x, seed, offset)[0]),)

    same(build, kind(96, 40).with_strides((1, 96)))


def test_a_join_that_draws_for_its_parts() -> None:
    def build(b: Builder, x: Node, seed: Node, offset: Node) -> tuple[Node, ...]:
        product = dropped(b, x, seed, offset)[0]
        return (b(Cat(1), product, x, product),)

    same(build, kind(5, 12))


def test_the_generator_gives_its_published_numbers() -> None:
    """Known answers of Random123, kat_vectors: philox4x32 10."""
    zero = philox(torch.tensor(0), torch.tensor([0]), torch.tensor([0]))
    assert zero.tolist() == [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]


def test_what_torch_drops_is_what_is_dropped() -> None:
    """The bound parts the numbers as the kernel's own arithmetic does."""
    for keep in (0.9, 0.5, 0.1, 0.999, 1e-6, 1 - 2.0**-24):
        bound, least = bound_of(keep), torch.tensor(keep, dtype=torch.float32)
        near = torch.arange(max(bound - 300, 0), min(bound + 300, 2**32), dtype=torch.int64)
        drawn = (near.float().double() * 2.0**-32 + 2.0**-33).float()
        assert torch.equal(drawn < least, near < bound)


def test_the_processor_has_no_such_kernel() -> None:
    from lazytorch.lower.cpp import kernel as cpp

    state = tensor_type((), torch.int64, torch.device("cpu"))
    x = tensor_type((64,), torch.float32, torch.device("cpu"))
    inputs = (input("x", x), input("seed", state), input("offset", state))
    op = Fused(Graph(inputs, dropped(Builder(), *inputs)))
    with pytest.raises(UnsupportedError, match="philox_mask"):
        cpp.CppTarget().prepare(op, (x, state, state))


gpu = pytest.mark.skipif(interpreting(), reason="no GPU")


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(8,), (1000, 1000), (16, 3, 100), (4096, 4096), (3, 257, 4)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_torchs_own_kernel_drops_the_same(
    shape: tuple[int, ...], dtype: torch.dtype, p: float
) -> None:
    x = torch.randn(shape, device=DEVICE, dtype=dtype)
    typed = kind(*shape, dtype=dtype)
    torch.manual_seed(5)
    torch.rand(100, device=DEVICE)
    product, kept = torch.native_dropout(x, p, True)
    after = torch.cuda.default_generators[0].get_offset()
    torch.manual_seed(5)
    torch.rand(100, device=DEVICE)
    vector = vector_of(typed)
    assert vector is not None
    seed, offset = PhiloxState(increment_of(typed, RESIDENT), DEVICE).run()
    assert torch.cuda.default_generators[0].get_offset() == after
    op = PhiloxMask(shape, typed.strides, bound_of(1 - p), vector, RESIDENT)
    assert torch.equal(op.run(seed, offset), kept)
    assert torch.equal(Dropout(factor_of(1 - p)).run(x, kept), product)


@gpu
def test_a_captured_state_is_that_of_each_replay() -> None:
    state = PhiloxState(36, DEVICE)
    torch.cuda.manual_seed(9)
    wanted = [tuple(map(int, state.run())) for _ in range(4)]
    graph = torch.cuda.CUDAGraph()
    torch.cuda.manual_seed(9)
    with torch.cuda.graph(graph):
        first = state.run()
        second = state.run()
    found: list[tuple[int, ...]] = []
    torch.cuda.manual_seed(9)
    for _ in range(2):
        graph.replay()
        found += [tuple(map(int, x)) for x in (first, second)]
    assert found == wanted


def norm_of_dropped(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(residual + F.dropout(x, 0.3, True), (64,))


@gpu
@pytest.mark.parametrize("shift", [0, 1, 4])
def test_a_compiled_function_draws_eagers_numbers(shift: int) -> None:
    """Directly and in a CUDA graph, for arguments on a boundary and off it, in turns."""
    fast = lt.compile(norm_of_dropped, wait=True)
    for offset in (0, shift, 0, shift):
        x = torch.randn(128 * 64 + offset, device=DEVICE)[offset:].view(128, 64)
        torch.manual_seed(7)
        wanted = [norm_of_dropped(x, x) for _ in range(5)]
        torch.manual_seed(7)
        for theirs in wanted:
            torch.testing.assert_close(fast(x, x), theirs, rtol=1e-4, atol=1e-5)
    assert "philox" in fast.explain()


@gpu
def test_a_training_step_draws_eagers_numbers() -> None:
    def net() -> nn.Module:
        torch.manual_seed(1)
        layers = (nn.Linear(64, 64), nn.Dropout(0.2), nn.GELU(), nn.Linear(64, 64), nn.Dropout(0.5))
        return nn.Sequential(*layers).to(DEVICE)

    def loss_of(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (out - target).square().mean()

    ours, theirs = net(), net()
    step = lt.train_step(ours, loss_of, torch.optim.SGD(ours.parameters(), 0.1), wait=True)
    sgd = torch.optim.SGD(theirs.parameters(), 0.1)
    x = torch.randn(256, 64, device=DEVICE)
    torch.manual_seed(3)
    got = [float(step(x, x)) for _ in range(6)]
    torch.manual_seed(3)
    wanted: list[float] = []
    for _ in range(6):
        loss = loss_of(theirs(x), x)
        loss.backward()
        sgd.step()
        sgd.zero_grad()
        wanted.append(float(loss.detach()))
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), rtol=1e-4, atol=1e-6)


@gpu
def test_a_dropout_of_torchs_draws_as_it_was_recorded() -> None:
    """Whatever order of memory its operand has by then."""
    x = torch.randn(2, 4, 30, device=DEVICE)
    torch.manual_seed(1)
    wanted = torch.native_dropout(x.mT.contiguous().mT, 0.3, True)
    torch.manual_seed(1)
    assert all(map(torch.equal, NativeDropout(0.3, (120, 1, 4)).run(x), wanted))
