"""A compiled function gives what eager gives: results, strides, aliasing, effects, gradients."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.errors import CutError, LazyTorchError, UnsupportedError
from lazytorch.frontend import trees
from lazytorch.frontend.tensor import LazyTensor

GLOBAL_SCALE = torch.tensor(2.0)


def tensors(value: Any) -> list[torch.Tensor]:
    return [x for x in trees.flatten(value)[0] if isinstance(x, torch.Tensor)]


def same(a: Any, b: Any) -> None:
    """Equal values, types and strides, leaf by leaf."""
    found, wanted = tensors(a), tensors(b)
    assert len(found) == len(wanted)
    for x, y in zip(found, wanted, strict=True):
        assert type(x) is not LazyTensor
        assert (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())
        assert x.requires_grad == y.requires_grad
        torch.testing.assert_close(x, y, equal_nan=True)


def check(fn: Callable[..., Any], *inputs: Callable[[], tuple[Any, ...]], **options: Any) -> Any:
    """Compare with eager on each input, on copies, so that writes to arguments are compared too."""
    fast = lt.compile(fn, wait=True, **options)
    for make in inputs * 2:
        torch.manual_seed(0)
        ours = make()
        torch.manual_seed(0)
        theirs = make()
        torch.manual_seed(1)
        result = fast(*ours)
        state = torch.get_rng_state()
        torch.manual_seed(1)
        same(result, fn(*theirs))
        assert torch.equal(state, torch.get_rng_state())
        same(ours, theirs)
    return fast


def randn(*shapes: tuple[int, ...]) -> Callable[[], tuple[torch.Tensor, ...]]:
    return lambda: tuple(torch.randn(s) for s in shapes)


# Arguments and results


@dataclass
class Pair:
    left: torch.Tensor
    right: torch.Tensor


def test_nested_arguments_and_results() -> None:
    def f(x: Any, *, more: Any = None) -> Any:
        return {"a": [x["p"] + 1, (x["q"][0] * 2,)], "b": None, "c": Pair(x["p"] - 1, x["p"])}

    check(f, lambda: ({"p": torch.randn(3), "q": [torch.randn(2)]},))


def test_keyword_arguments_and_numbers_select_the_plan() -> None:
    def f(x: torch.Tensor, n: float = 1.0, flip: bool = False) -> torch.Tensor:
        return -x * n if flip else x * n

    fast = lt.compile(f)
    x = torch.randn(4)
    for n in (1, 1.0, True, 2.5, -0.0):
        for flip in (False, True):
            same(fast(x, n=n, flip=flip), f(x, n=n, flip=flip))


def test_decorator_with_and_without_arguments() -> None:
    @lt.compile
    def f(x: torch.Tensor) -> torch.Tensor:
        """Doubles."""
        return x * 2

    @lt.compile(fullgraph=True)
    def g(x: torch.Tensor) -> torch.Tensor:
        return x * 3

    assert f.__doc__ == "Doubles."
    x = torch.randn(3)
    same((f(x), g(x)), (x * 2, x * 3))


def test_too_many_arguments_is_pythons_own_error() -> None:
    fast = lt.compile(lambda x: x)
    with pytest.raises(TypeError, match="positional argument"):
        fast(torch.ones(1), torch.ones(1))


# Aliasing and mutation


def test_result_may_be_the_argument_itself_or_a_view_of_it() -> None:
    def f(x: torch.Tensor) -> Any:
        return x, x[1:], x.t(), x + 1

    fast = lt.compile(f)
    x = torch.randn(3, 3)
    y, tail, turned, fresh = fast(x)
    assert y is x
    tail.fill_(7.0)
    assert x[1, 0] == 7 and turned[0, 1] == 7 and fresh[1, 0] != 7
    same((tail, turned), (x[1:], x.t()))


def test_results_that_share_memory_share_it() -> None:
    def f(x: torch.Tensor) -> Any:
        y = x * 2
        return y, y[0], y.view(-1), y

    fast = lt.compile(f)
    y, row, flat, again = fast(torch.randn(2, 3))
    row.zero_()
    assert flat[0] == 0 and y[0, 0] == 0
    assert again.data_ptr() == y.data_ptr()


def test_results_never_share_memory_that_the_next_call_writes() -> None:
    fast = lt.compile(lambda x: (x.relu(), x.relu(), x.clone()))
    x = torch.randn(5)
    first = fast(x)
    kept = [y.clone() for y in first]
    fast(torch.randn(5))
    same(first, kept)
    first[0].zero_()
    assert not torch.equal(first[1], first[0]) or x.relu().sum() == 0


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.add_(1),
        lambda x: x[0].mul_(2),
        lambda x: x.t().copy_(x + 1),
        lambda x: x.view(-1)[::2].zero_(),
        lambda x: (x.clone().add_(1), x.relu_())[0],
        lambda x: x.copy_(x.t() * 1),
        lambda x: torch.add(x, 1, out=x),
        lambda x: x[:, 1:].exp_() + x.sum(),
        lambda x: x.unsqueeze(0).squeeze(0).masked_fill_(x > 0, -1.0),
        lambda x: x.as_strided((2, 2), (1, 2)).add_(3),
        lambda x: [y.add_(i) for i, y in enumerate(x.unbind(1))],
        lambda x: x.index_put_((torch.tensor([0]),), torch.tensor(5.0)),
    ],
)
def test_writes_to_arguments(fn: Callable[[torch.Tensor], Any]) -> None:
    check(fn, randn((3, 3)))


def test_two_arguments_swap_contents() -> None:
    def f(a: torch.Tensor, b: torch.Tensor) -> None:
        old = a.clone()
        a.copy_(b)
        b.copy_(old)

    check(f, randn((4,), (4,)))


def test_arguments_that_share_storage() -> None:
    def f(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a.add_(1)
        return b * 2

    def overlapping() -> tuple[torch.Tensor, torch.Tensor]:
        base = torch.randn(6)
        return base[:4], base[2:]

    check(f, overlapping, randn((4,), (4,)))


def test_reading_a_strided_view_after_a_write_through_its_base() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x.t()
        y[0].add_(1)
        return y.reshape(-1) + x.reshape(-1)

    check(f, randn((3, 4)), lambda: (torch.randn(4, 3).t(),))


def test_channels_last_and_expanded_arguments() -> None:
    def f(x: torch.Tensor) -> Any:
        return x + 1, x.contiguous(), x.relu(), x.sum(1), torch.empty_like(x).zero_()

    check(
        f,
        lambda: (torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),),
        lambda: (torch.randn(1, 3, 1, 5).expand(2, 3, 4, 5),),
        lambda: (torch.randn(4, 2, 3, 5).permute(1, 2, 0, 3)[:, :, ::2],),
    )


# What is read from outside


def test_factories_and_random_numbers_are_not_baked_in() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(3) + torch.rand_like(x)
        return x + noise + torch.zeros(3).add_(x) + torch.arange(3)

    check(f, randn((3,)))


def test_closures_and_globals_are_read_at_every_call() -> None:
    scale = torch.tensor(3.0)

    def f(x: torch.Tensor) -> torch.Tensor:
        return x * scale * GLOBAL_SCALE

    fast = lt.compile(f)
    x = torch.randn(4)
    same(fast(x), f(x))
    scale.add_(1)
    same(fast(x), f(x))
    scale = torch.tensor(5.0)
    same(fast(x), f(x))
    globals()["GLOBAL_SCALE"] = torch.tensor(7.0)
    same(fast(x), f(x))


def test_numbers_in_closures_and_globals_are_guarded() -> None:
    factor = 2

    def f(x: torch.Tensor) -> torch.Tensor:
        return x * factor

    fast = lt.compile(f)
    x = torch.randn(4)
    same(fast(x), f(x))
    factor = 3
    same(fast(x), f(x))


class Counted(nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.scale = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x * self.count * self.scale


def test_buffers_advance_once_per_call_and_attributes_are_guarded() -> None:
    model = Counted()
    fast = lt.compile(model)
    x = torch.ones(2)
    assert [fast(x)[0].item() for _ in range(3)] == [2, 4, 6]
    model.scale = 10.0
    assert fast(x)[0].item() == 40
    assert model.count.item() == 4
    model.count = torch.tensor(100.0)
    assert fast(x)[0].item() == 1010


def test_attributes_of_every_kind_are_guarded() -> None:
    class Settings:
        def __init__(self) -> None:
            self.scale = 2.0

    class Configured(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool1d(2)
            self.factors = [1.0, 2.0]
            self.config = Settings()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pool(x) * self.factors[1] * self.config.scale

    model = Configured()
    fast = lt.compile(model)
    x = torch.randn(1, 8)
    same(fast(x), model(x))
    model.config.scale = 5.0
    same(fast(x), model(x))
    model.factors = [1.0, 7.0]
    same(fast(x), model(x))
    model.pool.kernel_size = 4
    model.pool.stride = (4,)
    same(fast(x), model(x))


def test_a_forward_that_changes_an_attribute_is_refused_and_undone() -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.last = x
            return x + 1

    model = Remembering()
    with pytest.raises(UnsupportedError, match="calls"):
        lt.compile(model)(torch.ones(2))
    assert model.calls == 0 and not hasattr(model, "last")


def test_plans_are_bounded_and_recompiles_are_reported() -> None:
    lt.reset()
    fast = lt.compile(lambda x: x + 1, max_plans=3)
    for n in range(1, 8):
        fast(torch.ones(n))
    assert len(fast.plans) == 3
    assert sum(line.startswith("recompile") for line in lt.report().splitlines()) == 6


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference_modes(mode: Any) -> None:
    model = nn.Linear(3, 3)
    fast = lt.compile(model)
    x = torch.randn(2, 3)
    with mode():
        same(fast(x), model(x))
        same(fast(x), model(x))


def test_autocast_is_part_of_the_signature() -> None:
    model = nn.Linear(3, 3)
    fast = lt.compile(model)
    x = torch.randn(2, 3)
    with torch.no_grad():
        same(fast(x), model(x))
        with torch.autocast("cpu", torch.bfloat16):
            same(fast(x), model(x))
        same(fast(x), model(x))


def test_functools_partial_and_methods() -> None:
    class Holder:
        def __init__(self) -> None:
            self.model = nn.Linear(2, 2)

        def apply(self, x: torch.Tensor, k: int) -> torch.Tensor:
            return self.model(x) * k

    holder = Holder()
    x = torch.randn(3, 2)
    fast = lt.compile(functools.partial(holder.apply, k=3))
    with torch.no_grad():
        same(fast(x), holder.apply(x, 3))
        holder.model.weight.zero_()
        same(fast(x), holder.apply(x, 3))


# Data-dependent Python


def test_branches_on_values() -> None:
    def f(x: torch.Tensor) -> Any:
        y = x * 2
        y = y + 1 if y.sum() > 0 else y - 1
        for _ in range(int(y.abs().max()) % 3):
            y = y * 2
        return y, x + y

    inputs = [functools.partial(lambda v: (torch.full((3,), v),), v) for v in (1.0, -1.0, 3.0, -4)]
    check(f, *inputs)


def test_a_buffer_written_before_a_cut_is_written_once() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            noise = torch.rand(2)
            if x.sum() > 0:
                self.count += 10
                return x + self.count + noise
            return x - self.count + noise

    ours, theirs = Branching(), Branching()
    fast = lt.compile(ours)
    for value in (1.0, 1.0, -1.0, 1.0, -1.0):
        x = torch.full((2,), value)
        torch.manual_seed(3)
        a = fast(x)
        torch.manual_seed(3)
        same((a, ours.count), (theirs(x), theirs.count))


def test_sizes_that_depend_on_values_and_eager_functions() -> None:
    @lt.disable
    def host(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() * 3)

    def f(x: torch.Tensor) -> Any:
        chosen = x[x > 0]
        return chosen * 2, host(x + 1) + 1, x.nonzero()

    check(f, lambda: (torch.tensor([1.0, -1.0, 2.0]),), lambda: (torch.tensor([-1.0, 0.0, 2.0]),))


def test_fullgraph_names_the_line_of_the_cut() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # the cut
            return x
        return -x

    with pytest.raises(CutError, match="the cut"):
        lt.compile(f, fullgraph=True)(torch.ones(2))


# Prologue


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False),
        nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip
    net(torch.randn(2, 3, 6, 6))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.running_mean is not None and m.running_var is not None
            nn.init.uniform_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
    return net.eval()


def close(fast: Any, net: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)


def test_changed_weights_are_used_by_the_very_next_call() -> None:
    net = conv_net()
    fast = lt.compile(net, wait=True)
    x = torch.randn(2, 3, 6, 6)
    close(fast, net, x)
    net.load_state_dict({k: v + 0.1 if v.is_floating_point() else v
                         for k, v in net.state_dict().items()})  # fmt: skip
    close(fast, net, x)
    with torch.no_grad():
        net.get_parameter("0.weight").mul_(2)
    close(fast, net, x)
    net[3].weight = nn.Parameter(torch.randn(4, 8, 1, 1))
    close(fast, net, x)
    net[6] = nn.Linear(144, 5)
    close(fast, net, x)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(x).square().sum().backward()
    optimizer.step()
    net.eval()
    close(fast, net, x)


def test_writes_through_data_need_refresh() -> None:
    net = conv_net()
    fast = lt.compile(net)
    x = torch.randn(2, 3, 6, 6)
    close(fast, net, x)
    net.get_parameter("0.weight").data.mul_(2)
    fast.refresh()
    close(fast, net, x)


def test_batch_norm_and_dropout_in_training() -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ReLU())

    ours, theirs = build(), build()
    fast = lt.compile(ours, wait=True)
    for seed in range(3):
        x = torch.randn(7, 6)
        torch.manual_seed(seed)
        a = fast(x)
        torch.manual_seed(seed)
        same(a, theirs(x))
        same(dict(ours.named_buffers()), dict(theirs.named_buffers()))


# Gradients


class Sign(torch.autograd.Function):
    """Straight-through estimator: backward is the identity, which is not sign's derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return g * 3


def gradient_functions() -> dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    def no_grad_inside(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            shift = (x * w).mean()
        return (x * w - shift).square().sum()

    return {
        "plain": lambda x, w: (x @ w).relu().sum(),
        "detach": lambda x, w: (x @ w * (x @ w).detach()).sum(),
        "no_grad": no_grad_inside,
        "custom": lambda x, w: (Sign.apply(x) @ w).sum(),
        "in_place": lambda x, w: (x @ w).mul_(2).add_(1).square().sum(),
        "dropout": lambda x, w: torch.dropout(x @ w, 0.5, True).square().sum(),
        "view": lambda x, w: (x * 2).t()[0].square().sum() + w.sum(),
    }


def gradients(y: torch.Tensor, *xs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """None where `y` does not depend on an x."""
    return torch.autograd.grad(y, xs, allow_unused=True)


@pytest.mark.parametrize("name", list(gradient_functions()))
def test_gradients_are_eagers(name: str) -> None:
    fn = gradient_functions()[name]
    fast = lt.compile(fn, wait=True)
    for _ in range(2):
        x = torch.randn(4, 4, requires_grad=True)
        w = torch.randn(4, 4, requires_grad=True)
        torch.manual_seed(5)
        y = fast(x, w)
        ours = gradients(y, x, w)
        torch.manual_seed(5)
        z = fn(x, w)
        same(y, z)
        theirs = gradients(z, x, w)
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b)


def test_results_require_grad_exactly_where_eagers_do() -> None:
    def f(x: torch.Tensor) -> Any:
        with torch.no_grad():
            a = x + 1
        return a, x.detach(), x.argmax(), x > 0, x * 2, torch.zeros_like(x), x[0], x.long()

    fast = lt.compile(f)
    for flag in (True, False):
        x = torch.randn(3, requires_grad=flag)
        assert [y.requires_grad for y in fast(x)] == [y.requires_grad for y in f(x)]


def test_double_backward_through_a_compiled_module() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    fast = lt.compile(model)

    def penalty(f: Any) -> torch.Tensor:
        x = torch.linspace(0, 1, 6).reshape(3, 2).requires_grad_()
        (g,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        model.zero_grad()
        g.square().sum().backward()
        grad = model.get_parameter("0.weight").grad
        assert grad is not None
        return grad.clone()

    torch.testing.assert_close(penalty(fast), penalty(model))


def test_training_a_step_with_buffers_follows_eager() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
        return net, torch.optim.SGD(net.parameters(), 0.1)

    (ours, our_step), (theirs, their_step) = build(), build()
    fast = lt.compile(ours, wait=True)
    for seed in range(4):
        x = torch.randn(16, 4)
        for net, step in ((fast, our_step), (theirs, their_step)):
            torch.manual_seed(seed)
            step.zero_grad()
            net(x).square().mean().backward()
            step.step()
        same(ours.state_dict(), theirs.state_dict())


# Refusals


def test_a_wrong_shape_names_the_users_line_and_leaves_everything() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + x.new_ones(3)  # does not fit

    model = Wrong()
    fast = lt.compile(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(LazyTorchError, match="does not fit") as caught:
        fast(torch.randn(2, 4))
    assert "test_compile.py" in str(caught.value)
    same(dict(model.state_dict()), before)
    assert not any(isinstance(v, LazyTensor) for m in model.modules() for v in vars(m).values())


def test_an_exception_in_the_users_code_passes_through() -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.cache = x * 2
            raise ValueError("mine")

    model = Failing()
    with pytest.raises(ValueError, match="mine"):
        lt.compile(model)(torch.ones(2))
    assert not hasattr(model, "cache")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: torch.ones(2, 2).to_sparse(), "sparse"),
        (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "nested"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_unusual_tensors_are_refused_by_name(make: Callable[[], torch.Tensor], name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        lt.compile(lambda x: x + 1)(make())


def test_a_tensor_hook_is_refused_by_name() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y.register_hook(lambda g: g * 2)
        return y

    with pytest.raises(UnsupportedError, match="hook"):
        lt.compile(f)(torch.ones(2, requires_grad=True))


def test_objects_that_differ_from_call_to_call_are_refused() -> None:
    counter = iter(range(10))
    with pytest.raises(LazyTorchError, match="differ from call to call"):
        lt.compile(lambda x: (x, next(counter)))(torch.ones(1))


def test_eagers_refusals_are_ours() -> None:
    with pytest.raises(RuntimeError, match="cast"):
        lt.compile(lambda x: x.mul_(1.5))(torch.ones(2, dtype=torch.long))
    with pytest.raises(RuntimeError, match="single memory location"):
        lt.compile(lambda x: x.expand(3, 2).add_(1))(torch.ones(1, 2))
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        lt.compile(lambda x: x.t().view(-1))(torch.ones(2, 3))
