"""`backward()`, `.grad`, hooks and optimizers inside compiled functions leave what eager leaves."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from double_net import F64, Anew, close, detached, grads, net, point
from torch import nn

import lazytorch as lt
from lazytorch.report import Report

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True),
    "anew": Anew,
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_whole_step(name: str, to_none: bool, first: bool) -> None:
    found: list[Any] = []
    for compiled in (False, True):
        m = net()
        opt = OPTIMIZERS[name](m.parameters())

        def step(x: torch.Tensor, m: nn.Module = m, opt: Any = opt) -> torch.Tensor:
            if first:
                opt.zero_grad(set_to_none=to_none)
            loss = m(x).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(m.parameters(), 0.05)
            opt.step()
            if not first:
                opt.zero_grad(set_to_none=to_none)
            return loss

        run = lt.compile(step) if compiled else step
        losses = [run(point(i)).detach() for i in range(6)]
        state = [x for s in opt.state.values() for x in s.values()]
        found.append((losses, [p.detach() for p in m.parameters()], grads(m), state))
        if compiled:
            assert isinstance(run, lt.Compiled)
            assert sum(map(len, run.plans.values())) in (1, 2)
    close(*found)


def test_gradients_accumulate_over_calls() -> None:
    found: list[Any] = []
    for compiled in (False, True):
        m = net()

        def some(x: torch.Tensor, m: nn.Module = m) -> torch.Tensor:
            loss = m(x).square().mean()
            loss.backward()
            return loss.detach()

        run = lt.compile(some) if compiled else some
        for i in range(4):
            run(point(i))
            if i == 1:
                kept = [p.grad for p in m.parameters()]
        assert all(p.grad is k for p, k in zip(m.parameters(), kept, strict=True))  # in place
        pointers = {p.grad.data_ptr() for p in m.parameters() if p.grad is not None}
        assert len(pointers) == 4
        found.append(grads(m))
        for p in m.parameters():
            p.grad = None
        run(point(9))
        found[-1] += grads(m)
    close(*found)


P = nn.Parameter(torch.randn(4, dtype=F64))
Q = nn.Parameter(torch.randn(4, dtype=F64))


def twice(x: torch.Tensor) -> torch.Tensor:
    loss = (x * P).sin().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    return loss


def chosen(x: torch.Tensor) -> torch.Tensor:
    y = x * P
    loss = (y * Q).sum()
    loss.backward(inputs=[P])
    return y.detach()


def weighted(x: torch.Tensor) -> torch.Tensor:
    (x * P).backward(x.cos())
    return x * 1


def second(x: torch.Tensor) -> torch.Tensor:
    loss = (x * P).pow(3).sum()
    loss.backward(create_graph=True)
    assert P.grad is not None
    g = P.grad
    P.grad = None
    g.square().sum().backward()
    return g.detach()


def inner(x: torch.Tensor) -> Any:
    w = x.detach().requires_grad_()
    v = torch.ones(4, dtype=F64, requires_grad=True)
    y = (w * P).exp() * v
    y.retain_grad()
    y.sin().sum().backward()
    return w.grad, y.grad, v.grad, w.is_leaf, y.is_leaf, y.retains_grad


def same_gradient(x: torch.Tensor) -> torch.Tensor:
    (P + Q).sum().backward()
    return x * 2


def several(x: torch.Tensor) -> torch.Tensor:
    torch.autograd.backward([(x * P).sum(), (x * Q).square()], [None, x])
    return x * 2


def unused_half(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = x * P
    (y * Q).sum().backward()
    return y


def hooked(x: torch.Tensor) -> torch.Tensor:
    y = x * P
    gone = y.register_hook(lambda g: g * 100)
    y.register_hook(lambda g: g.clamp(-0.1, 0.1))
    gone.remove()
    early = y.sin()
    y.register_hook(lambda g: None)
    w = x.detach().requires_grad_()
    w.register_hook(lambda g: g * 3)
    (early * y * w).sum().backward()
    assert w.grad is not None
    return w.grad


def penalised(x: torch.Tensor) -> torch.Tensor:
    y = x * P
    y.register_hook(lambda g: g * g)
    (g,) = torch.autograd.grad(y.square().sum(), P, create_graph=True)
    g.sum().backward()
    return g.detach()


FUNCTIONS = [twice, chosen, weighted, second, inner, same_gradient, several, unused_half, hooked,
             penalised]  # fmt: skip


def runs(fn: Callable[..., Any], compiled: bool, before: bool) -> list[Any]:
    for p in (P, Q):
        p.grad = torch.ones_like(p) if before else None
    run = lt.compile(fn) if compiled else fn
    found: list[Any] = []
    for i in range(3):
        x = torch.randn(4, dtype=F64, generator=torch.Generator().manual_seed(i))
        y = run(x)
        found.append([detached(v) for v in (y if isinstance(y, tuple) else (y,))])
        found.append([detached(P.grad), detached(Q.grad)])
    return found


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda f: f.__name__)
def test_backward_is_eagers(fn: Callable[..., Any], before: bool) -> None:
    close(runs(fn, True, before), runs(fn, False, before))


def test_gradients_of_arguments() -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        (x * y).sin().sum().backward()
        assert x.grad is not None
        return x.grad * 2

    fast = lt.compile(f)
    pairs = [[torch.randn(4, dtype=F64, requires_grad=True) for _ in range(2)] for _ in range(2)]
    for x, y in pairs:
        a, b = (v.detach().clone().requires_grad_() for v in (x, y))
        for _ in range(2):  # the second time there are gradients to add to
            close(fast(x, y), f(a, b))
            close([x.grad, y.grad], [a.grad, b.grad])


def test_a_gradient_is_read_anew_at_every_call() -> None:
    p = nn.Parameter(torch.ones(3))
    fast = lt.compile(lambda x: x if p.grad is None else x + p.grad)
    for g in (None, torch.ones(3), torch.full((3,), 2.0), None, torch.full((3,), 5.0)):
        p.grad = g
        close(fast(torch.zeros(3)), torch.zeros(3) if g is None else g)


def test_only_the_update_is_compiled() -> None:
    found: list[Any] = []
    for compiled in (False, True):
        m = net()
        opt = torch.optim.Adam(m.parameters(), 1e-2)

        def update(opt: Any = opt) -> None:
            opt.step()
            opt.zero_grad()

        run = lt.compile(update) if compiled else update
        for i in range(4):
            m(point(i)).square().mean().backward()
            run()
            run()  # without gradients nothing is done
        found.append(([p.detach() for p in m.parameters()], grads(m)))
    close(*found)


def test_the_rate_may_change_and_state_may_be_loaded() -> None:
    found: list[Any] = []
    for compiled in (False, True):
        m = net()
        opt = torch.optim.AdamW(m.parameters(), 1e-2)
        rate = torch.optim.lr_scheduler.StepLR(opt, 2, 0.1)

        def step(x: torch.Tensor, m: nn.Module = m, opt: Any = opt) -> torch.Tensor:
            loss = m(x).square().mean()
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss.detach()

        run = lt.compile(step) if compiled else step
        for i in range(4):
            run(point(i))
            rate.step()
        saved = copy.deepcopy((m.state_dict(), opt.state_dict()))
        run(point(5))
        m.load_state_dict(saved[0])
        opt.load_state_dict(saved[1])
        run(point(6))
        found.append([p.detach() for p in m.parameters()])
    close(*found)


def test_refusals_leave_everything() -> None:
    p = nn.Parameter(torch.ones(3))
    outside = p * 2

    def reached(x: torch.Tensor) -> None:
        (outside * x).sum().backward()

    def remembers(x: torch.Tensor) -> torch.Tensor:
        (p * x).sum().backward()
        return kept(x)

    @lt.disable
    def kept(x: torch.Tensor) -> torch.Tensor:
        return x + p.grad

    def under(x: torch.Tensor) -> torch.Tensor:
        y = (x * p).sum()
        y.backward()
        return y

    x = torch.ones(3)
    cases: list[tuple[Callable[..., Any], str]] = [
        (reached, "graph from outside"),
        (remembers, "gradients that are only recorded"),
        (lt.grad(under), "enclosing derivative"),
    ]
    for fn, said in cases:
        with pytest.raises(lt.errors.UnsupportedError, match=said) as caught:
            lt.compile(fn)(x)
        assert "test_recorded_backward.py" in str(caught.value)
        assert p.grad is None
        assert torch.equal(p.detach(), torch.ones(3))


def test_an_optimizer_that_counts_in_python_is_refused() -> None:
    p = nn.Parameter(torch.ones(3))

    class Counting(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            with torch.no_grad():
                p.sub_(p.grad)  # type: ignore[arg-type]
            self.state[p]["count"] = self.state[p].get("count", 0) + 1

    opt = Counting([p], {})

    def step(x: torch.Tensor) -> None:
        opt.zero_grad()
        (p * x).sum().backward()
        opt.step()

    fast = lt.compile(step)
    fast(torch.ones(3))  # eager's own: an optimizer's first step makes its state
    before = p.detach().clone()
    with pytest.raises(lt.errors.UnsupportedError, match="count"):
        fast(torch.ones(3))
    assert torch.equal(p.detach(), before)
    assert opt.state[p] == {"count": 1}


def test_a_model_without_hooks_pays_nothing_for_gradients() -> None:
    Report.events.clear()
    m = net()
    fast = lt.compile(m)
    for i in range(3):  # gradients come and go: nothing is recorded again
        fast(point(i)).sum().backward()
        if i % 2:
            m.zero_grad()
    assert [e for e in Report.events if e.kind == "recompile"] == []
