"""Under no_grad nothing has a history, be it a result or a view of one; behind it, other views of
the same memory have theirs still."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.utils import prune, spectral_norm, weight_norm

import lazytorch as lt

VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "t": lambda x: x.t(),
    "T": lambda x: x.T,
    "view": lambda x: x.view(-1)[:4],
    "select": lambda x: x[1],
    "slice": lambda x: x[1:, ::2].flatten()[:4],
    "none": lambda x: x[None],
    "expand": lambda x: x.expand(2, 4, 4),
    "as_strided": lambda x: x.as_strided((4,), (2,), 3),
    "unbind": lambda x: x.unbind(1)[2],
    "split": lambda x: x.split([1, 3], 1)[0],
    "chunk": lambda x: x.chunk(2)[1][0],
    "diagonal": lambda x: x.diagonal(),
    "unfold": lambda x: x[0].unfold(0, 1, 1).squeeze(1),
    "movedim": lambda x: x.movedim(0, 1),
    "view_as": lambda x: x.view_as(x),
    "detach": lambda x: x.detach().t(),
    "view_as_complex": lambda x: torch.view_as_complex(x.view(4, 2, 2)).real.sum(1),
    "contiguous": lambda x: x.t().contiguous(),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x.T),
    "out": lambda x: torch.div(x.t()[:, 0], 2.0, out=torch.zeros(4)),
    "in place": lambda x: torch.zeros(4, 4).add_(x.T),
}


def agree(f: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Value and gradient are eager's, of a compiled function and by `lt.grad`."""
    ours = torch.randn(4, 4, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    want = f(theirs)
    want.backward()
    fast = lt.compile(f)
    for _ in range(2):
        ours.grad = None
        got = fast(ours)
        got.backward()
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(lt.grad(f)(theirs.detach()), theirs.grad)


@pytest.mark.parametrize("of", ["an argument", "a result"])
@pytest.mark.parametrize("name", VIEWS)
def test_no_gradient_goes_through_it(name: str, of: str) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        base = x if of == "an argument" else x * 3
        with torch.no_grad():
            seen = VIEWS[name](base)
            later = seen.sin()
        return (x.exp() * seen).sum() + (x * later).sum() + (x * seen.cos()).sum()

    agree(f)


def test_a_gradient_goes_through_other_views_of_the_memory() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        before = y.t()
        with torch.no_grad():
            inside = y.view(-1)
            with torch.enable_grad():
                above = inside * 1 + x.view(-1)
        after = y.reshape(-1)
        return (before * x).sum() + (inside * after * above).sum()

    agree(f)


def test_a_write_under_no_grad_is_seen_and_has_no_history() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y, z = x * 2, torch.zeros(4, 4)
        with torch.no_grad():
            y[0].mul_(x[1])
            z.add_(x)
            z[0].mul_(x.t()[1])
        return (x * y).sum() + (x * z).sum()

    agree(f)


def pruned(layer: torch.nn.Module) -> torch.nn.Module:
    prune.l1_unstructured(layer, "weight", 0.3)
    return layer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [weight_norm, spectral_norm, pruned])
@pytest.mark.parametrize("training", [True, False])
def test_weights_that_a_hook_computes_at_each_call(wrap: Any, training: bool) -> None:
    def made() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(wrap(torch.nn.Linear(3, 4)), torch.nn.Linear(4, 2))

    ours, theirs = made().train(training), made().train(training)
    fast = lt.compile(ours)
    for step in range(6):
        x, learns = torch.randn(5, 3), training and step != 2
        with torch.set_grad_enabled(learns):
            got, want = fast(x), theirs(x)
        torch.testing.assert_close(got, want)
        if learns:
            for result, model in ((got, ours), (want, theirs)):
                model.zero_grad()
                result.square().sum().backward()
                with torch.no_grad():
                    for p in model.parameters():
                        p.sub_(0.01 * p.grad)  # type: ignore[operator]
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(ours[0].weight, theirs[0].weight)  # type: ignore[index]
    assert len([x for plans in fast.plans.values() for x in plans]) <= 4
