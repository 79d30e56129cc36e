"""`tolist()` in a compiled function: the values decide how Python goes on, as `item()`'s do."""

from collections.abc import Callable

import pytest
import torch

import lazytorch as lt
from lazytorch.errors import CutError, UnsupportedError


def sorted_by_sign(x: torch.Tensor) -> torch.Tensor:
    """Rows whose first number is negative, doubled, and then the others."""
    late = (x[:, 0] >= 0).long()
    sizes = torch.stack([(late == 0).sum(), (late == 1).sum()]).tolist()
    first, second = x[late.argsort(stable=True)].split(sizes)
    return torch.cat([first * 2, second.exp()])


def test_rows_are_split_by_counts() -> None:
    fast = lt.compile(sorted_by_sign, wait=True)
    for seed in (0, 1, 2, 0, 1):
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(fast(x), sorted_by_sign(x))
    none = torch.ones(6, 3)
    torch.testing.assert_close(fast(none), sorted_by_sign(none))


def test_what_was_seen_before_is_not_compiled_again() -> None:
    fast = lt.compile(sorted_by_sign, wait=True)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    fast(x)
    before = len(fast.programs())
    fast(x + 0.0)
    assert len(fast.programs()) == before
    fast(-x)
    assert len(fast.programs()) > before or int((x[:, 0] < 0).sum()) == 3


def test_derivatives_pass_by() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = []
    for f in (lt.compile(sorted_by_sign, wait=True), sorted_by_sign):
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(f(leaf).sin().sum(), leaf)
        found.append(g)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    "values",
    [
        lambda x: (x > 0).tolist(),
        lambda x: x.round().tolist(),
        lambda x: x[0, 0].tolist(),
        lambda x: x[:0].tolist(),
        lambda x: x[None].tolist(),
    ],
    ids=["bool", "float", "one", "none", "nested"],
)
def test_lists_are_eagers(values: Callable[[torch.Tensor], object]) -> None:
    x = torch.tensor([[1.5, -0.0], [-3.0, float("inf")]])
    want = repr(values(x + 1))
    fast = lt.compile(lambda x: x * (2 if repr(values(x + 1)) == want else 0))
    for _ in range(2):
        torch.testing.assert_close(fast(x), x * 2)


def test_a_whole_graph_cannot_look() -> None:
    with pytest.raises(CutError, match=r"fullgraph=True.*list"):
        lt.compile(sorted_by_sign, fullgraph=True)(torch.randn(6, 3))


def test_many_values_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="cannot hand a tensor's values"):
        lt.compile(lambda x: x * len((x + 1).tolist()))(torch.randn(65))
    assert lt.compile(lambda x: x * len((x + 1).tolist()))(torch.ones(64)).sum() == 64 * 64
