"""Every overload that returns a view: it shows, and is written through, as in eager."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from aliasing import BASES, check, check_compiled, numbered

import lazytorch as lt
from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.frontend import dispatch
from lazytorch.frontend.imports import VIEWERS

aten = torch.ops.aten

GENERAL = {
    "_test_autograd_multiple_dispatch_view.default",  # recorded as torch's fake kernel says
}
REFUSED = {  # no strided memory of one dense tensor, or not of one tensor
    "_fw_primal.default",
    "_indices.default",
    "_make_dual.default",
    "_neg_view.default",
    "_nested_get_values.default",
    "_nested_view_from_buffer.default",
    "_nested_view_from_jagged.default",
    "_sparse_broadcast_to.default",
    "_values.default",
    "ccol_indices.default",
    "col_indices.default",
    "crow_indices.default",
    "indices.default",
    "row_indices.default",
    "slice_inverse.default",
    "values.default",
}


def overloads() -> list[Any]:
    """Every overload of aten."""
    found: list[Any] = []
    for full in torch._C._dispatch_get_all_op_names():
        name, _, variant = full.removeprefix("aten::").partition(".")
        if full.startswith("aten::") and hasattr(aten, name):
            found.append(getattr(getattr(aten, name), variant or "default", None))
    return [func for func in found if func is not None]


def short(func: Any) -> str:
    return str(func).removeprefix("aten.")


def test_every_overload_that_returns_a_view_has_a_rule_or_is_refused_by_name() -> None:
    forgotten: list[str] = []
    for func in overloads():
        schema = func._schema
        shares = any(x.alias_info is not None for x in schema.arguments)
        if schema.is_mutable or not shares:
            continue
        known = func in VIEWERS or func in dispatch._SPECIAL or dispatch.composite(func)
        if not known and short(func) not in GENERAL | REFUSED:
            forgotten.append(short(func))
    assert not forgotten, "say in VIEWERS what these show, or list them here"


def test_every_overload_that_changes_geometry_in_place_is_handled_by_name() -> None:
    changing = [x for x in overloads() if torch.Tag.inplace_view in x.tags]
    assert len(changing) > 10
    forgotten = [short(x) for x in changing if x not in dispatch._SPECIAL]
    assert not forgotten


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_view_of_one_dense_tensor_is_refused(name: str) -> None:
    packet, _, variant = name.partition(".")
    func = getattr(getattr(aten, packet), variant)
    tensors = [a.name for a in func._schema.arguments if str(a.type) == "Tensor"]
    rest = [0] if name.startswith(("_fw", "_make")) else []
    more = [[2, 2]] if name == "_sparse_broadcast_to.default" else rest

    def f(x: torch.Tensor) -> Any:
        return func(*[x] * len(tensors), *more)

    with pytest.raises((LazyTorchError, RuntimeError)):
        lt.compile(f)(torch.ones(2, 2))


ONE: dict[str, Callable[[torch.Tensor], Any]] = {
    "alias": lambda x: aten.alias(x),
    "as_strided": lambda x: x.as_strided((2, 3), (3, 1), x.storage_offset()),
    "broadcast_to": lambda x: x.broadcast_to((2, *x.shape)),
    "chunk": lambda x: x.chunk(3, -1),
    "contiguous": lambda x: x.contiguous(),
    "data": lambda x: x.data,
    "detach": lambda x: x.detach(),
    "diagonal": lambda x: x.diagonal(1),
    "diagonal_back": lambda x: x.diagonal(-1, -1, 0),
    "dsplit": lambda x: x.dsplit(2),
    "expand_as": lambda x: x[:, :1].expand_as(x),
    "flatten": lambda x: x.flatten(),
    "hsplit": lambda x: x.hsplit([2, 3]),
    "linalg_diagonal": lambda x: torch.linalg.diagonal(x),
    "mH": lambda x: x.mH,
    "mT": lambda x: x.mT,
    "moveaxis": lambda x: x.moveaxis((0, 1), (1, 0)),
    "movedim": lambda x: x.movedim(0, -1),
    "narrow": lambda x: x.narrow(-1, 1, 2),
    "narrow_tensor": lambda x: x.narrow(0, torch.tensor(1), 2),
    "positive": lambda x: +x,
    "ravel": lambda x: x.ravel(),
    "real": lambda x: torch.real(x),
    "reshape": lambda x: x.reshape(2, -1),
    "reshape_alias": lambda x: aten._reshape_alias(x, [2, 2], list(x.stride()[-2:])),
    "reshape_as": lambda x: x.reshape_as(x),
    "select": lambda x: x.select(-1, -2),
    "slice": lambda x: x[1:4:2, ..., ::3],
    "split": lambda x: x.split([1, x.shape[0] - 1]),
    "squeeze": lambda x: x.squeeze(),
    "squeeze_dims": lambda x: x.squeeze((0, 1)),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "swapdims": lambda x: x.swapdims(-1, 0),
    "tensor_split": lambda x: x.tensor_split(3),
    "tensor_split_at": lambda x: x.tensor_split((1, 1, 3), -1),
    "to": lambda x: x.to(torch.float32),
    "unbind": lambda x: x.unbind(-1),
    "unflatten": lambda x: x.unflatten(-1, (2, -1)),
    "unfold": lambda x: x.unfold(-1, 2, 3),
    "unsafe_chunk": lambda x: x.unsafe_chunk(2),
    "unsafe_split": lambda x: x.unsafe_split(2),
    "unsafe_split_with_sizes": lambda x: x.unsafe_split_with_sizes([1, x.shape[0] - 1]),
    "unsafe_view": lambda x: aten._unsafe_view(x, [x.numel()]),
    "unsqueeze": lambda x: x.unsqueeze(-2),
    "view": lambda x: x.view(-1),
    "view_as": lambda x: x.view_as(x),
    "view_dtype": lambda x: x.view(torch.int32),
    "view_dtype_smaller": lambda x: x.view(torch.int16),
    "view_dtype_larger": lambda x: x.view(torch.float64),
    "vsplit": lambda x: x.vsplit(2),
    "general": lambda x: aten._test_autograd_multiple_dispatch_view(x),
}


def first(result: Any) -> torch.Tensor:
    return result[0] if isinstance(result, list | tuple) else result


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("base", BASES)
def test_a_view_shows_and_is_written_as_in_eager(name: str, base: str) -> None:
    view, make = ONE[name], BASES[base]

    def returned(x: torch.Tensor) -> Any:
        return view(x)

    def of_own(x: torch.Tensor) -> Any:
        y = x * 1
        return y, view(y)

    def written_through(x: torch.Tensor) -> Any:
        y = view(x)
        first(y).mul_(3)
        return y

    def base_written(x: torch.Tensor) -> Any:
        y = x + 0
        z = first(view(y))
        y.mul_(2)
        z.add_(z)
        return y, z, first(view(z.unsqueeze(0)))

    for fn in (returned, of_own, written_through, base_written):
        check(fn, make)


COMPLEX: dict[str, Callable[[torch.Tensor], Any]] = {
    "view_as_real": torch.view_as_real,
    "real": lambda x: x.real,
    "imag": lambda x: x.imag,
    "view": lambda x: x.view(torch.float32),
    "part": lambda x: x[1:].real[:, 1:],
    "as_strided_real": lambda x: x.real.as_strided((3,), (2,), x.real.storage_offset() + 2),
    "conj": lambda x: x.conj(),
    "twice": lambda x: x.conj().conj(),
    "mH": lambda x: x.mH,
    "resolve": lambda x: x.conj().resolve_conj(),
    "as_strided_conj": lambda x: x.conj().as_strided((2,), (6,), x.storage_offset() + 1),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_views_of_complex_numbers(name: str) -> None:
    view = COMPLEX[name]

    def make() -> torch.Tensor:
        return torch.complex(numbered(4, 6), -numbered(4, 6))[1:, 2:]

    def written(x: torch.Tensor) -> Any:
        y = view(x)
        y.mul_(2)
        return y

    for fn in (view, written, lambda x: (lambda y: (y, view(y)))(x * 1)):
        check_compiled(fn, make)
    check_values = lt.lazy(make())
    wanted = make()
    torch.testing.assert_close(written(check_values).torch(), written(wanted).resolve_conj())
    torch.testing.assert_close(check_values.torch(), wanted)


def test_a_returned_conjugate_is_a_view_of_the_argument() -> None:
    x = torch.complex(numbered(2), numbered(2))
    y = lt.compile(lambda x: x.conj())(x)
    x.mul_(2)
    assert y.is_conj() and torch.equal(y, x.conj())


def test_pairs_as_complex_numbers() -> None:
    check(lambda x: torch.view_as_complex(x.view(3, 2, 2)), lambda: numbered(3, 4))
    check(lambda x: torch.view_as_complex(x.view(3, 2, 2)).mul_(2j), lambda: numbered(3, 4))


def test_a_view_with_another_dtype_that_is_returned_carries_gradients() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(x)

    for fn in (f, lt.compile(f, wait=True)):
        x = torch.complex(numbered(3), numbered(3)).requires_grad_()
        fn(x)[:, 1].sum().backward()
        assert x.grad is not None and torch.equal(x.grad, torch.full((3,), 1j))


def test_an_operation_of_the_users_that_returns_a_view_is_recorded() -> None:
    with torch.library._scoped_library("lt_test_views", "FRAGMENT") as library:
        library.define("tail(Tensor(a) x, int n) -> Tensor(a)")
        library.define("halves(Tensor(a) x) -> Tensor(a)[]")
        library.impl("tail", lambda x, n: x[..., n:], "CompositeExplicitAutograd")
        library.impl(
            "halves", lambda x: list(x.split(x.shape[0] // 2)), "CompositeExplicitAutograd"
        )
        ops = torch.ops.lt_test_views

        def f(x: torch.Tensor) -> Any:
            ops.tail(x, 2).mul_(2)
            a, b = ops.halves(x)
            a.add_(b)
            return a, ops.tail(b, 1), b

        for base in ("row-major", "turned", "part"):
            check(f, BASES[base])


def test_a_view_of_an_argument_that_is_not_aligned_for_its_dtype_is_refused() -> None:
    fast = lt.compile(lambda x: x.view(torch.float64))
    whole = numbered(9)
    assert torch.equal(fast(whole[:8]), whole[:8].view(torch.float64))
    with pytest.raises(RuntimeError, match=r"cannot be viewed|divisible"):
        fast(whole[1:])


def test_arguments_on_one_storage_are_told_apart_by_where_they_lie() -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.add_(y) * 1

    fast = lt.compile(f, wait=True)
    for size, i, j in ((6, 0, 3), (6, 3, 0), (12, 1, 5), (12, 5, 1)):
        ours, theirs = numbered(size), numbered(size)
        result = fast(ours[i : i + 3], ours[j : j + 3])
        assert torch.equal(result, f(theirs[i : i + 3], theirs[j : j + 3]))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("form", ["sliced", "reshaped", "turned", "mixed", "detached"])
@pytest.mark.parametrize("writes", [False, True])
def test_long_chains_of_views_are_read_and_written_at_every_link(form: str, writes: bool) -> None:
    def link(y: torch.Tensor, i: int) -> torch.Tensor:
        if form == "sliced":
            return y[1:]
        if form == "reshaped":
            return y.view(-1) if i % 2 else y.view(2, -1)
        if form == "turned":
            return y.t() if y.dim() == 2 else y.view(8, -1)
        if form == "detached" and i % 3 == 0:
            return y.detach()
        return y.flatten()[2:].view(2, -1).t() if y.dim() == 2 else y.view(2, -1)

    def f(x: torch.Tensor) -> Any:
        base = x * 1
        y, total = base, torch.zeros(())
        for i in range(50):
            y = link(y, i)
            if writes:
                y.add_(i)
            total = total + y.sum()
        return base, y, total

    check(f, lambda: numbered(240))
    check(lambda x: f(x.t().reshape(-1)), lambda: numbered(24, 10))


@pytest.mark.parametrize("writes", [False, True])
def test_a_chain_of_views_records_a_bounded_number_of_nodes_for_each(writes: bool) -> None:
    def f(x: torch.Tensor, count: int) -> torch.Tensor:
        y = x = x * 1
        for _ in range(count):
            y = y.t()[1:] if y.dim() == 2 else y.view(20, -1)[:, 1:]
            if writes:
                y.add_(1)
            if y.shape[0] < 3:
                y = x
        return y + x.sum()

    small, large = [len(lt.trace(lambda x, n=n: f(x, n), numbered(80, 80))) for n in (70, 140)]
    assert large < 2.5 * small


def test_writes_through_many_entries_record_two_nodes_each() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        x = x * 1
        for i in range(len(x)):
            x[i].add_(1)
        return x

    small, large = [len(lt.trace(f, numbered(n))) for n in (50, 100)]
    assert large - small < 50 * 5


def test_storage_outside_of_an_argument_is_refused_by_name() -> None:
    whole = numbered(12)
    with pytest.raises(UnsupportedError, match="no part of the tensor that came in"):
        lt.compile(lambda x: x.as_strided((4,), (1,), 0) * 1)(whole[3:9])


def test_a_write_into_an_ordinary_tensor_is_a_new_version() -> None:
    x, version = numbered(3), 0
    x.add_(lt.lazy(numbered(3)))
    assert x._version > version and x.tolist() == [2, 4, 6]

    def cut(x: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        return x + 1 if x.sum() > 0 else x - 1

    version = x._version
    lt.compile(cut, wait=True)(x)
    assert x._version > version and x.tolist() == [4, 8, 12]


def test_recording_alone_is_no_new_version() -> None:
    x = numbered(3)
    version = x._version
    lt.trace(lambda x: x.add_(1), x)
    assert x._version == version and x.tolist() == [1, 2, 3]


@pytest.mark.parametrize("gradients", [True, False])
def test_what_is_returned_unchanged_is_the_very_object(gradients: bool) -> None:
    held, plain = torch.nn.Parameter(torch.ones(3)), torch.ones(3)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = held, torch.nn.Embedding(4, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return x * self.used, x, self.used, self.unused.weight, held, plain

    net, x = Net(), torch.randn(3)
    fast = lt.compile(net)
    with torch.set_grad_enabled(gradients):
        for _ in range(2):
            for ours, theirs in zip(fast(x)[1:], net(x)[1:], strict=True):
                assert ours is theirs
