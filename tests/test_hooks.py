"""Hooks on tensors and modules are called where eager calls them, or noticed."""

from typing import Any

import torch
from double_net import close, grads, net, point
from torch import nn

import lazytorch as lt


def test_hooks_of_parameters_and_modules() -> None:
    found: list[Any] = []
    for compiled in (False, True):
        m = net()
        first, last = m[0], m[2]
        first.weight.register_hook(lambda g: g * 0.5)
        last.register_full_backward_hook(lambda m, gi, go: (gi[0] * 2 + go[0].sum(),))
        last.register_full_backward_pre_hook(lambda m, go: (go[0].clamp(max=0.1),))

        def after(p: torch.Tensor) -> None:
            with torch.no_grad():
                p.sub_(p.grad, alpha=0.1)  # type: ignore[arg-type]
            p.grad = None

        last.bias.register_post_accumulate_grad_hook(after)

        def step(x: torch.Tensor, m: nn.Module = m) -> torch.Tensor:
            loss = m(x).square().mean()
            loss.backward()
            return loss.detach()

        run = lt.compile(step) if compiled else step
        losses = [run(point(i)) for i in range(3)]
        first.weight.register_hook(lambda g: g * 0)  # a hook more is another function
        losses.append(run(point(3)))
        found.append((losses, [p.detach() for p in m.parameters()], grads(m)))
    close(*found)


def test_hooks_where_backward_is_called_outside() -> None:
    found: list[Any] = []
    for compiled in (False, True):
        m = net()
        m[0].weight.register_hook(lambda g: g * 0.5)
        m[2].register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,))

        def f(x: torch.Tensor, m: nn.Module = m) -> torch.Tensor:
            y = m(x)
            y.register_hook(lambda g: g.clamp(-0.05, 0.05))
            return y.square()

        run = lt.compile(f) if compiled else f
        for i in range(3):
            run(point(i)).mean().backward()
        found.append(grads(m))
    close(*found)


def test_a_hook_that_remembers_is_called_at_every_backward() -> None:
    seen: list[torch.Tensor] = []
    p = nn.Parameter(torch.ones(3))

    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * p
        y.register_hook(lambda g: seen.append(g))
        return y.sin()

    fast = lt.compile(f)
    for i in range(3):
        x = torch.full((3,), float(i))
        fast(x).sum().backward()
        assert len(seen) == i + 1
        close(seen[-1], (x * p).cos().detach())


def test_a_module_hook_added_later_is_noticed() -> None:
    m = net()
    fast = lt.compile(m)
    x = point(0)
    fast(x).sum().backward()
    before = grads(m)[0]
    m[2].register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,))
    for p in m.parameters():
        p.grad = None
    fast(x).sum().backward()
    close(grads(m)[0], before * 2)
