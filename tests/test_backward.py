"""The compiled backward pass: eager's gradients, accumulated as eager does, from saved values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.report import Report

F64 = torch.float64


class Reverse(torch.autograd.Function):
    """Gradient reversal, scaled by a number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:  # type: ignore[override]
        return -ctx.scale * g, None


class Cube(torch.autograd.Function):
    """x^3 and x^2 from what was saved, in the newer style."""

    @staticmethod
    def forward(x: torch.Tensor) -> Any:  # type: ignore[override]
        return x**3, x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor, h: torch.Tensor) -> Any:  # type: ignore[override]
        x, square = ctx.saved_tensors
        return 3 * square * g + 2 * x * h


class Doubled(torch.autograd.Function):
    """In place, with a result that carries no gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        signs = x.sign()
        x.mul_(2)
        ctx.mark_dirty(x)
        ctx.mark_non_differentiable(signs)
        return x, signs

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor, _: Any) -> Any:  # type: ignore[override]
        return g * 2


class Once(torch.autograd.Function):
    """Refuses to be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 2 * x * g


class Net(nn.Module):
    """Convolution, training batch norm, dropout, a tied weight and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Linear(64, 16)
        self.second = nn.Linear(16, 16)
        self.third = nn.Linear(16, 16)
        self.third.weight = self.second.weight
        self.unused = nn.Parameter(torch.ones(3))
        self.drop = nn.Dropout(0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.max_pool2d(self.norm(self.conv(x)).relu(), 2)
        y = self.drop(functional.gelu(self.first(y.flatten(1))))
        y = functional.layer_norm(self.third(self.second(y).tanh()), (16,))
        return y.softmax(-1).log()


FUNCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "matmul": lambda x, w: (x @ w).sin().sum(),
    "reversal": lambda x, w: (Reverse.apply(x * w, 0.5) * w).sum(),
    "saved": lambda x, w: (Cube.apply(x * w)[0] * w).sum() + Cube.apply(w)[1].sum(),
    "in place": lambda x, w: (Doubled.apply(x * w)[0] * Doubled.apply(w * 1)[1]).sum(),
    "once": lambda x, w: Once.apply(x * w).sum(),
    "broadcast": lambda x, w: (x[0] * w + x.sum(0, keepdim=True)).exp().mean(),
    "views and writes": lambda x, w: written(x, w),
    "several results": lambda x, w: ((x * w).sum(), (x + w).prod(0).sum()),
    "attention": lambda x, w: functional.scaled_dot_product_attention(
        x[None, None], w[None, None], x[None, None]
    ).square().sum(),
    "cross entropy": lambda x, w: functional.cross_entropy(x @ w, torch.arange(4)),
}  # fmt: skip


def written(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y[1:, 0] = w[0, 1:]
    y.t().mul_(w)
    return y.square().sum()


def pair(grad: bool = True) -> list[torch.Tensor]:
    return [torch.randn(4, 4, dtype=F64, requires_grad=grad) for _ in range(2)]


def total(y: Any) -> torch.Tensor:
    return sum(y, torch.zeros((), dtype=F64)) if isinstance(y, tuple) else y


@pytest.fixture(autouse=True)
def nothing_is_eager() -> Any:
    """The compiled backward must be what ran."""
    Report.events.clear()
    yield
    assert [e for e in Report.events if e.kind == "backward"] == []


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_gradients_are_eagers(name: str) -> None:
    fn = FUNCTIONS[name]
    fast = lt.compile(fn)
    for _ in range(3):
        xs = pair()
        ours = torch.autograd.grad(total(fast(*xs)), xs)
        theirs = torch.autograd.grad(total(fn(*xs)), xs)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


# Torch's attention on the CPU has no second derivative, and one function refuses its own.
@pytest.mark.parametrize("name", [x for x in FUNCTIONS if x not in ("once", "attention")])
def test_second_derivatives_are_eagers(name: str) -> None:
    fn = FUNCTIONS[name]

    def inner(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        gx, gw = torch.autograd.grad(total(fn(x, w)), (x, w), create_graph=True)
        return (gx.sin() * x).sum() + (gw.cos() * w).sum()

    fast = lt.compile(inner)
    for _ in range(2):
        xs = pair()
        y, z = fast(*xs), inner(*xs)
        torch.testing.assert_close(y, z, rtol=1e-10, atol=1e-11)
        ours = torch.autograd.grad(y, xs)
        torch.testing.assert_close(ours, torch.autograd.grad(z, xs), rtol=1e-9, atol=1e-10)
        # From outside, through the compiled function: torch's own, of eager's computation.
        first = torch.autograd.grad(total(lt.compile(fn)(*xs)), xs, create_graph=True)
        value = sum((g * g).sum() for g in first)
        want = torch.autograd.grad(total(fn(*xs)), xs, create_graph=True)
        torch.testing.assert_close(
            torch.autograd.grad(value, xs, allow_unused=True),
            torch.autograd.grad(sum((g * g).sum() for g in want), xs, allow_unused=True),
            rtol=1e-9, atol=1e-10,
        )  # fmt: skip


def test_what_is_marked_once_differentiable_refuses_the_second() -> None:
    def twice(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        (g,) = torch.autograd.grad(Once.apply(x * w).sum(), x, create_graph=True)
        return torch.autograd.grad(g.sum(), x)[0]

    with pytest.raises(lt.errors.LazyTorchError, match="once_differentiable"):
        lt.compile(twice)(*pair())


def train(model: nn.Module, run: Any, steps: int) -> list[torch.Tensor]:
    """Parameters, buffers and gradients after some steps; gradients accumulate over pairs."""
    torch.manual_seed(1)
    opt = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, momentum=0.9)
    for step in range(steps):
        run(torch.randn(4, 2, 8, 8, dtype=F64)).square().mean().backward()
        if step % 2:
            opt.step()
            opt.zero_grad()
    grads = [torch.zeros(()) if p.grad is None else p.grad for p in model.parameters()]
    return [*model.state_dict().values(), *grads]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_training_loop_leaves_what_eagers_does(frozen: bool) -> None:
    models: list[nn.Module] = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Net().double()
        if frozen:
            model.conv.requires_grad_(False)
        models.append(model)
    ours = train(models[0], lt.compile(models[0]), 5)
    theirs = train(models[1], models[1], 5)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_retained_graphs_give_the_same_again() -> None:
    xs = pair()
    y = lt.compile(FUNCTIONS["matmul"])(*xs)
    first = torch.autograd.grad(y, xs, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(y, xs), first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, xs)


def test_a_saved_argument_that_is_written_is_noticed() -> None:
    x, w = pair()
    y = lt.compile(lambda x, w: (x * w).sum())(x, w)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_gradients_of_some_results_only() -> None:
    fn = FUNCTIONS["several results"]
    fast = lt.compile(fn)
    for k in (0, 1):
        xs = pair()
        ours = torch.autograd.grad(fast(*xs)[k], xs)
        torch.testing.assert_close(ours, torch.autograd.grad(fn(*xs)[k], xs))


def test_cotangents_of_any_strides() -> None:
    def fn(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (x @ w).sin()

    fast = lt.compile(fn)
    xs = pair()
    wide = torch.randn(4, 8, dtype=F64)
    for g in (wide[:, :4], wide[:, ::2], wide[:, :4].t(), wide[:1, :1].expand(4, 4)):
        ours = torch.autograd.grad(fast(*xs), xs, g)
        torch.testing.assert_close(ours, torch.autograd.grad(fn(*xs), xs, g))


def test_gradients_lie_as_parameters_do() -> None:
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    fast = lt.compile(conv)
    fast(torch.randn(2, 3, 8, 8)).sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.stride() == conv.weight.stride()


def test_results_do_not_outlive_their_graph() -> None:
    import gc
    import weakref

    fast = lt.compile(lambda x, w: (x @ w).sin())
    gc.disable()
    try:
        y = fast(*pair())
        alive = weakref.ref(y)
        del y
        assert alive() is None
    finally:
        gc.enable()


def test_a_first_call_in_pieces_is_computed_again_from_where_it_began() -> None:
    """The pieces that end in a cut run while the function is recorded: what they draw and write was
    taken for what the function finds, and gradients were those of other numbers."""

    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.ones(()))
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(3)
            self.calls += 1
            y = x * noise * self.calls * self.weight
            much = int(noise.abs().sum() * 10) % 4 + 1
            return (y.sum() * torch.rand(much)).sin().sum()

    for seed in range(4):
        ours, theirs = Drawing(), Drawing()
        fast = lt.compile(ours, wait=True)
        for call in range(2):
            found = []
            for f in (fast, theirs):
                x = torch.linspace(0, 1, 3).requires_grad_()
                torch.manual_seed(10 * seed + call)
                y = f(x)
                module = ours if f is fast else theirs
                found.append((y.detach(), *torch.autograd.grad(y, [x, module.weight])))
            torch.testing.assert_close(found[0], found[1])
        torch.testing.assert_close(ours.calls, theirs.calls)
