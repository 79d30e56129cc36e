"""A compiled function gives what eager gives: results, strides, aliasing, writes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from comparison import check, randn, same

import lazytorch as lt


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


def test_recording_leaves_the_garbage_collector_as_it_was() -> None:
    import gc

    def fails(x: torch.Tensor) -> torch.Tensor:
        assert not gc.isenabled()
        raise ValueError("the user's own")

    with pytest.raises(ValueError, match="own"):
        lt.compile(fails)(torch.ones(2))
    assert gc.isenabled()
    gc.disable()
    try:
        lt.compile(lambda x: x + 1)(torch.ones(2))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_tensors_without_memory_are_taken() -> None:
    """Of their device nothing is known that a plan could be made with."""
    found = lt.compile(lambda x: x.exp() + 1, wait=True)(torch.ones(3, device="meta"))
    assert found.device.type == "meta" and found.shape == (3,)
