"""Compares what shares memory with what: a function compiled, and on lazy tensors, with eager."""

from collections.abc import Callable
from typing import Any

import torch

import lazytorch as lt
from lazytorch.errors import UnsupportedError
from lazytorch.frontend import trees
from lazytorch.frontend.tensor import LazyTensor

Make = Callable[[], torch.Tensor]


def numbered(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return (torch.arange(count) + 1).to(dtype).view(shape)


BASES: dict[str, Make] = {
    "row-major": lambda: numbered(4, 6),
    "turned": lambda: numbered(6, 4).t(),
    "part": lambda: numbered(9, 8)[1::2, 1:7],
    "channels-last": lambda: numbered(2, 4, 3, 2).to(memory_format=torch.channels_last)[:, :, 1],
    "single": lambda: numbered(4, 1, 6),
}


def flat(value: Any) -> list[torch.Tensor]:
    return [x for x in trees.flatten(value)[0] if isinstance(x, torch.Tensor)]


def shown(x: torch.Tensor) -> object:
    """What one sees of a tensor, bits included (a NaN equals itself)."""
    plain = x.detach().resolve_conj().resolve_neg().reshape(-1).clone()
    # A fresh vector: the view of one element may have a stride that forbids the next view.
    plain = plain.as_strided((plain.numel(),), (1,)).view(torch.uint8)
    return x.dtype, tuple(x.shape), plain.tolist()


def geometry(x: torch.Tensor) -> object:
    return tuple(x.shape), tuple(x.stride()), x.dtype


def distance(a: torch.Tensor, b: torch.Tensor) -> int | None:
    """Bytes from a's first element to b's, None where they share no memory."""
    if a.untyped_storage()._cdata != b.untyped_storage()._cdata:
        return None
    return b.storage_offset() * b.itemsize - a.storage_offset() * a.itemsize


def outcome(fn: Callable[..., Any], *args: Any) -> Any:
    """The tensors of the result, or that eager refuses; what only ours refuses is raised."""
    try:
        return flat(fn(*args))
    except UnsupportedError:
        raise
    except (RuntimeError, IndexError, NotImplementedError):
        return "refused"


def check_compiled(fn: Callable[..., Any], *makes: Make) -> None:
    """Values, geometry and sharing among arguments and results are eager's, twice over."""
    fast = lt.compile(fn, wait=True)
    for _ in range(2):
        theirs, ours = [make() for make in makes], [make() for make in makes]
        wanted, found = outcome(fn, *theirs), outcome(fast, *ours)
        if "refused" in (wanted, found):
            assert wanted == found, (wanted, found)
            return
        assert len(wanted) == len(found)
        assert [shown(x) for x in ours] == [shown(x) for x in theirs]
        assert [shown(x) for x in found] == [shown(x) for x in wanted]
        assert [geometry(x) for x in found] == [geometry(x) for x in wanted]
        assert [geometry(x) for x in ours] == [geometry(x) for x in theirs]
        everything = [*theirs, *wanted], [*ours, *found]
        pairs = [[distance(a, b) for a in xs for b in xs if a is not b] for xs in everything]
        assert pairs[0] == pairs[1]


def check_lazy(fn: Callable[..., Any], *makes: Make) -> None:
    """On lazy tensors: geometry known before anything runs, then values, then the arguments'."""
    theirs = [make() for make in makes]
    ours = [lt.lazy(make()) for make in makes]
    wanted, found = outcome(fn, *theirs), outcome(fn, *ours)
    if "refused" in (wanted, found):
        assert wanted == found, (wanted, found)
        return
    assert all(isinstance(x, LazyTensor) for x in found) and len(found) == len(wanted)
    assert [geometry(x) for x in found] == [geometry(x) for x in wanted]
    assert [x.storage_offset() for x in found] == [x.storage_offset() for x in wanted]
    assert [shown(x.torch()) for x in found] == [shown(x) for x in wanted]
    assert [shown(x.torch()) for x in ours] == [shown(x) for x in theirs]


def check(fn: Callable[..., Any], *makes: Make) -> None:
    check_compiled(fn, *makes)
    check_lazy(fn, *makes)
