"""CUDA graphs: what is captured, what is refused and why, and replays as right as calls."""

import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.compiled import Compiled
from lazytorch.ir import Builder, Graph, Write, input
from lazytorch.ops.pointwise import Add, Mul
from lazytorch.passes import fuse, numbers_on_device
from lazytorch.runtime.cudagraph import Numbers, Replayer, burden, refusal
from lazytorch.runtime.pool import pool_of
from lazytorch.types import ScalarType, tensor_type

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda", 0)


def test_values_on_the_cpu_are_refused_by_name() -> None:
    x = input("x", tensor_type((3,), torch.float32, CUDA))
    y = input("y", tensor_type((), torch.float32))
    total = Builder()(Add(), x, y)
    assert "a value lies on the cpu" in refusal(Graph((x, y), (total,)))


def test_numbers_that_vary_are_refused_by_name() -> None:
    x, s = input("x", tensor_type((2,), device="cuda")), input("s", ScalarType(float))
    assert "a number varies" in refusal(Graph((x, s), (Builder()(Mul(), x, s),)))


def test_numbers_that_vary_are_taken_where_they_stay_on_the_device() -> None:
    x, s = input("x", tensor_type((2,), device="cuda")), input("s", ScalarType(float))
    graph = Graph((x, s), (Builder()(Mul(), x, s),))
    assert refusal(fuse(numbers_on_device(graph))) == ""


def test_numbers_are_copied_where_one_of_them_changed() -> None:
    numbers = Numbers([1.0, 0.0], torch.device("cpu"))
    for values in ([1.0, 0.0], [1.0, -0.0], [0.1, float("nan")], [0.1, float("nan")]):
        before = numbers.memory._version
        changed = numbers.known != struct.pack("2d", *values)
        numbers.fill(values)
        found = [x.item() for x in numbers.tensors]
        assert list(map(repr, found)) == list(map(repr, values))
        assert (numbers.memory._version > before) == changed


def test_a_write_to_an_argument_is_refused_and_one_to_state_is_not() -> None:
    for role, why in (("argument", "it writes to the argument x"), ("state", "")):
        x = input("x", tensor_type((3,), torch.float32, CUDA), role)
        b = Builder()
        write = b(Write(), x, b(Add(), x, x))
        assert refusal(Graph((x,), (), (write,))) == why


def test_few_operations_on_large_arguments_are_not_worth_their_copies() -> None:
    def sums(size: int, count: int, role: str = "argument") -> Graph:
        x = y = input("x", tensor_type((size,), torch.float32, CUDA), role)
        for _ in range(count):
            y = Builder()(Add(), y, x)
        return Graph((x,), (y,))

    large = 4 * 2**20  # 16 MiB in, 16 MiB out
    assert burden(sums(large, 1), frozenset()) == (
        "32 MiB would be copied in and out at each call, for 1 launches"
    )
    assert not burden(sums(large, 2), frozenset())
    assert not burden(sums(1000, 1), frozenset())
    assert not burden(sums(large, 1, "state"), frozenset())
    assert not burden(sums(large, 1), frozenset({0}))


def settled(fast: Compiled, *args: object) -> Replayer:
    """Call until the plan is captured; its replayer."""
    for _ in range(3):
        fast(*args)
        fast.wait()
    replay = fast.programs()[0].replay
    assert isinstance(replay, Replayer)
    assert replay.captured is not None, replay.why
    return replay


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(7, 33), nn.GELU(), nn.LayerNorm(33), nn.Linear(33, 5))
    return layers.cuda().eval()


@gpu
def test_replays_follow_new_inputs_and_results_are_kept() -> None:
    net = model()
    fast = lt.compile(net)
    with torch.no_grad():
        settled(fast, torch.randn(4, 7, device="cuda"))
        inputs = [torch.randn(4, 7, device="cuda") for _ in range(4)]
        results = [fast(x) for x in inputs]
        for x, y in zip(inputs, results, strict=True):
            torch.testing.assert_close(y, net(x))


@torch.library.custom_op("lazytorch_tests::by_its_sum", mutates_args=())
def by_its_sum(x: torch.Tensor) -> torch.Tensor:
    return x * x.sum().item()


@torch.library.custom_op("lazytorch_tests::in_step", mutates_args=())
def in_step(x: torch.Tensor) -> torch.Tensor:
    torch.cuda.synchronize()
    return x + 1


by_its_sum.register_fake(torch.empty_like)
in_step.register_fake(torch.empty_like)


@gpu
@pytest.mark.parametrize(
    ("op", "why"), [(by_its_sum, "it waits for the GPU"), (in_step, "the capture failed")]
)
def test_what_waits_for_the_gpu_is_not_captured(op: Callable[..., Any], why: str) -> None:
    fast = lt.compile(lambda x: op((x + 1).repeat(64).exp())[:1])
    lt.reset()
    pool, x = pool_of(CUDA), torch.randn(2**10, device="cuda")
    for _ in range(4):
        fast(x)
        fast.wait()
    replay = fast.programs()[0].replay
    assert isinstance(replay, Replayer) and why in replay.why
    torch.testing.assert_close(fast(x), op((x + 1).repeat(64).exp())[:1])
    assert pool.users or pool.values is None
    torch.manual_seed(3)  # random numbers are drawn as before
    drawn = torch.randn(5, device="cuda")
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.randn(5, device="cuda"))


@gpu
def test_weights_changed_in_place_replaced_and_moved() -> None:
    net = model()
    fast = lt.compile(net)
    x = torch.randn(4, 7, device="cuda")
    with torch.no_grad():
        settled(fast, x)
        net[0].weight.mul_(-2)
        torch.testing.assert_close(fast(x), net(x))
        net[3].weight = nn.Parameter(torch.randn(5, 33, device="cuda"))
        torch.testing.assert_close(fast(x), net(x))
        net[3].bias.data = torch.randn(5, device="cuda")
        torch.testing.assert_close(fast(x), net(x))


@gpu
def test_a_number_that_varies_is_computed_with_as_python_does() -> None:
    def scaled(x: torch.Tensor, y: torch.Tensor, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        return x.add(y, alpha=-rate), x.half() * (1 - rate**2) + rate

    fast = lt.compile(scaled)
    x, y = torch.randn(2, 1000, device="cuda").unbind()
    for rate in (0.1, 0.2, 0.3):
        fast(x, y, rate)
        fast.wait()
    settled(fast, x, y, 0.3)
    for rate in (0.1, 1 / 3, -0.0, 1e-9):
        for found, want in zip(fast(x, y, rate), scaled(x, y, rate), strict=True):
            half = want.dtype is torch.half
            torch.testing.assert_close(
                found, want, rtol=1e-3 if half else 0, atol=1e-3 if half else 0
            )


@gpu
def test_buffers_advance_once_a_call_and_their_versions_move() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(3, device="cuda"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total += x.sum(0)
            return x * self.total

    ours, theirs = Counter(), Counter()
    fast = lt.compile(ours)
    with torch.no_grad():
        for step in range(6):
            before = ours.total._version
            x = torch.full((2, 3), float(step), device="cuda")
            torch.testing.assert_close(fast(x), theirs(x))
            torch.testing.assert_close(ours.total, theirs.total)
            assert ours.total._version > before
            fast.wait()
    assert "captured once" in fast.explain()


@gpu
def test_random_numbers_are_eagers_for_a_seed() -> None:
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x, 0.5) + torch.rand_like(x)

    fast = lt.compile(noisy)
    x = torch.ones(1000, device="cuda")
    settled(fast, x)
    torch.manual_seed(3)
    theirs = [noisy(x) for _ in range(3)]
    torch.manual_seed(3)
    ours = [fast(x) for _ in range(3)]
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@gpu
def test_outputs_that_alias_inputs_and_each_other() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x * 2
        return x, x[1:], y, y.t()

    fast = lt.compile(function)
    settled(fast, torch.randn(3, 3, device="cuda"))
    x = torch.randn(3, 3, device="cuda")
    same, part, y, turned = fast(x)
    assert same is x
    assert part.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert turned.data_ptr() == y.data_ptr()
    torch.testing.assert_close(y, x * 2)


@gpu
def test_two_signatures_share_a_pool_and_do_not_disturb_each_other() -> None:
    net = model()
    fast = lt.compile(net)
    small, large = torch.randn(4, 7, device="cuda"), torch.randn(600, 7, device="cuda")
    with torch.no_grad():
        for _ in range(4):
            fast(small), fast(large)
            fast.wait()
        kept = [(x, fast(x)) for x in (small, large, -small, -large)]
        for x, y in kept:
            torch.testing.assert_close(y, net(x))
        replays = [stage.replay for stage in fast.programs()]
        assert all(isinstance(r, Replayer) and r.captured is not None for r in replays)


@gpu
def test_streams_and_threads_get_their_own_results() -> None:
    net = model()
    fast = lt.compile(net)
    wrong: list[float] = []
    with torch.no_grad():
        settled(fast, torch.randn(512, 7, device="cuda"))

    def work(seed: int) -> None:
        stream = torch.cuda.Stream()
        generator = torch.Generator("cuda").manual_seed(seed)
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(50):
                x = torch.randn(512, 7, device="cuda", generator=generator)
                y, expected = fast(x), net(x)
                wrong.append(float((y - expected).abs().max()))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 200
    assert max(wrong) < 1e-5


@gpu
def test_gradients_of_a_replayed_forward() -> None:
    net = model()
    fast = lt.compile(net)
    x = torch.randn(4, 7, device="cuda")
    for _ in range(4):
        for p in net.parameters():
            p.grad = None
        fast(x).sum().backward()
        ours = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        for p in net.parameters():
            p.grad = None
        net(x).sum().backward()
        for a, p in zip(ours, net.parameters(), strict=True):
            torch.testing.assert_close(a, p.grad)
        fast.wait()


@gpu
def test_a_users_own_capture_takes_the_program_in() -> None:
    net = model()
    fast = lt.compile(net)
    x = torch.randn(4, 7, device="cuda")
    with torch.no_grad():
        settled(fast, x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = fast(x)
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.testing.assert_close(y, net(x))
