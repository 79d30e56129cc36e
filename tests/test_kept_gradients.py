"""What `train_step(keep_grads=True)` leaves in `p.grad` is what eager would have accumulated."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt


class Odd(nn.Module):
    """Parameters whose gradients are one number, one another, a batch, or a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.column = nn.Parameter(torch.linspace(-1, 1, 24).view(6, 4).t())
        self.last = nn.Parameter(
            torch.linspace(-1, 1, 48).view(2, 3, 2, 4).to(memory_format=torch.channels_last)
        )
        self.holes = nn.Parameter(torch.linspace(-1, 1, 16).view(4, 4)[:, ::2])
        self.one = nn.Parameter(torch.linspace(0, 1, 4))
        self.two = nn.Parameter(torch.linspace(0, 2, 4))
        self.left = nn.Parameter(torch.linspace(1, 2, 4))
        self.right = nn.Parameter(torch.linspace(2, 3, 4))
        self.by_batch = nn.Parameter(torch.linspace(2, 3, 4))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.single = nn.Parameter(torch.zeros(1, 1).as_strided((1, 1), (7, 5)))
        self.unused = nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        same = (self.one + self.two).sum() + (self.left * self.right).sum()
        odd = self.column.sum() + self.last.sum() + self.holes.sum() + self.empty.sum()
        return same + odd + (self.by_batch * x).sum() + (self.single * x).sum()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("skip", [False, True])
def test_kept_gradients_are_laid_out_as_eager_accumulates_them(
    accumulate: int, clip: float | None, skip: bool
) -> None:
    ours, theirs = Odd(), Odd()
    mine, other = [torch.optim.SGD(m.parameters(), 0.1, 0.9) for m in (ours, theirs)]
    step = lt.train_step(
        ours, None, mine, keep_grads=True, clip_norm=clip, accumulate=accumulate,
        skip_nonfinite=skip,
    )  # fmt: skip
    for i in range(4):
        x = torch.arange(4.0).repeat(accumulate, 1) + i
        given = x.clone()
        before = [p.grad for p in ours.parameters()]
        kept = [None if g is None else g.clone() for g in before]
        step(x)
        other.zero_grad()
        for part in x.chunk(accumulate):
            (theirs(part) / accumulate).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        other.step()
        assert not step.refused and torch.equal(x, given)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
        torch.testing.assert_close(before, kept)  # the last step's stay as they were
        memory = {t.untyped_storage()._cdata for t in [x, *ours.parameters()] if t.numel()}
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), name
            if p.grad is None or q.grad is None:
                continue
            torch.testing.assert_close(p.grad, q.grad)
            assert [s for s, n in zip(p.grad.stride(), p.shape, strict=True) if n > 1] == [
                s for s, n in zip(q.grad.stride(), q.shape, strict=True) if n > 1
            ], name
            assert p.grad.is_leaf and not p.grad.requires_grad
            if p.numel():
                assert p.grad.untyped_storage()._cdata not in memory, name
                memory.add(p.grad.untyped_storage()._cdata)
        values = [None if p.grad is None else p.grad + 1 for p in ours.parameters()]
        for p in [p for p in ours.parameters() if p.grad is not None]:
            assert p.grad is not None
            p.grad.add_(1)
        torch.testing.assert_close([p.grad for p in ours.parameters()], values)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "sgd": lambda p: torch.optim.SGD(p, 1e-2, weight_decay=0.1, maximize=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_writes_gradients_that_are_one_number(name: str) -> None:
    ours, theirs = Odd(), Odd()
    mine, other = OPTIMIZERS[name](ours.parameters()), OPTIMIZERS[name](theirs.parameters())
    step = lt.train_step(ours, None, mine, clip_norm=0.5)
    for i in range(4):
        x = torch.arange(4.0) + i
        step(x)
        other.zero_grad()
        theirs(x).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        other.step()
        assert not step.refused
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("name", ["column", "last", "holes", "one", "left", "single"])
def test_a_gradient_made_by_backward_inside_is_laid_out_alike(name: str) -> None:
    ours, theirs = Odd(), Odd()

    def made(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        def step(x: torch.Tensor) -> torch.Tensor:
            loss = model(x)
            loss.backward()
            return loss.detach()

        return step

    fast, eager = lt.compile(made(ours), wait=True), made(theirs)
    for _ in range(3):
        x = torch.arange(4.0)
        torch.testing.assert_close(fast(x), eager(x))
        g, want = ours.get_parameter(name).grad, theirs.get_parameter(name).grad
        assert g is not None and want is not None
        torch.testing.assert_close(g, want)
        if name != "single":
            assert g.stride() == want.stride()
        g.add_(1)
        want.add_(1)
