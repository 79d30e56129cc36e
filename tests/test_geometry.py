"""In-place geometry: the same tensor with another shape, strides, offset or storage."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from aliasing import BASES, check, check_compiled, check_lazy, numbered
from torch import nn

import lazytorch as lt
from lazytorch.errors import UnsupportedError
from lazytorch.frontend.tensor import LazyTensor

CHANGES: dict[str, Callable[[torch.Tensor], Any]] = {
    "t_": lambda x: x.t_(),
    "transpose_": lambda x: x.transpose_(0, -1),
    "swapaxes_": lambda x: x.swapaxes_(0, 1),
    "swapdims_": lambda x: x.swapdims_(1, -1),
    "squeeze_": lambda x: x.squeeze_(),
    "squeeze_dim_": lambda x: x.squeeze_(1),
    "squeeze_dims_": lambda x: x.squeeze_((0, 1)),
    "unsqueeze_": lambda x: x.unsqueeze_(1),
    "as_strided_": lambda x: x.as_strided_((3, 2), (2, 3)),
    "as_strided_at_": lambda x: x.as_strided_((5,), (2,), x.storage_offset() + 1),
    "resize_": lambda x: x.resize_(3, 2),
    "resize_none_": lambda x: x.resize_(0),
    "resize_same_": lambda x: x.resize_(x.shape),
    "resize_format_": lambda x: x.resize_((2, 2, 2, 2), memory_format=torch.channels_last),
    "resize_as_": lambda x: x.resize_as_(torch.zeros(2, 5)),
    "set_": lambda x: x.set_(torch.ones(2, 2)),
    "set_empty_": lambda x: x.set_(),
    "set_part_": lambda x: x.set_(numbered(10), 1, (2, 2), (4, 2)),
    "data": lambda x: setattr(x, "data", torch.ones(3)),
    "data_dtype": lambda x: setattr(x, "data", x.to(torch.float64)),
    "detach_": lambda x: x.detach_(),
}
OWN = "set_", "set_part_", "data"  # make tensors inside: in lazy use ordinary ones


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("base", BASES)
def test_a_tensor_of_its_own_changes_in_place(name: str, base: str) -> None:
    change, make = CHANGES[name], BASES[base]

    def fresh(x: torch.Tensor) -> Any:
        y = x * 1
        change(y)
        same = y
        y.add_(1)
        return y, y * 2, same.view_as(y)

    def beside_a_view(x: torch.Tensor) -> Any:
        y = x * 1
        first, before = y[:1], y.detach()
        change(y)
        y.mul_(2)
        return y, first, before

    def a_view(x: torch.Tensor) -> Any:
        y = x * 1
        z = y[1:]
        change(z)
        z.add_(1)
        return y, z, y.sum()

    def a_view_of_the_argument(x: torch.Tensor) -> Any:
        z = x.view_as(x)
        change(z)
        z.add_(1)
        return z

    for fn in (fresh, beside_a_view, a_view, a_view_of_the_argument):
        if name == "detach_" and fn in (a_view, a_view_of_the_argument):
            continue  # eager refuses it of every view, also where there is nothing to detach
        try:
            check_compiled(fn, make)
            if name not in OWN:
                check_lazy(fn, make)
        except UnsupportedError:
            # What lies between and behind the elements of an argument does not come in, and a
            # storage that another tensor shows does not grow.
            assert fn in (a_view, a_view_of_the_argument) and base in ("part", "channels-last")


def test_the_object_stays_the_same() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        z = y.t_()
        assert z is y and y.shape == (6, 4) and y.stride() == (1, 6)
        assert y.unsqueeze_(0) is y and y.shape == (1, 6, 4)
        assert y.squeeze_().resize_(2, 3) is y and y.shape == (2, 3) and len(y) == 2
        return y

    check(f, lambda: numbered(4, 6))


def test_what_does_not_change_an_argument_is_no_change() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        x.squeeze_().resize_(4, 6).transpose_(0, 0).as_strided_((4, 6), (6, 1)).detach_()
        return x.set_(x).add_(1)

    check(f, lambda: numbered(4, 6).clone())


@pytest.mark.parametrize("name", sorted({*CHANGES} - {"detach_", "resize_same_"}))
def test_a_tensor_from_outside_is_refused_by_name_and_stays(name: str) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        CHANGES[name](x)
        return x + 1

    x = numbered(4, 1, 6).transpose(0, 2) if name != "t_" else numbered(4, 6)
    before = x.clone(), x.shape, x.stride()
    with pytest.raises(UnsupportedError, match=r"outside|part of"):
        lt.compile(f)(x)
    assert torch.equal(x, before[0]) and (x.shape, x.stride()) == before[1:]


def test_a_parameter_is_refused_at_the_users_line() -> None:
    net = nn.Linear(3, 2)

    def turned(x: torch.Tensor) -> torch.Tensor:
        net.weight.data.t_()
        net.weight.data = x
        return x

    with pytest.raises(UnsupportedError, match=r"test_geometry.py.*net.weight.data = x") as error:
        lt.compile(turned)(torch.ones(2, 3))
    assert error.value.hint and net.weight.shape == (2, 3)


def test_a_storage_grows_where_nobody_else_shows_it() -> None:
    def grown(x: torch.Tensor) -> Any:
        y = x * 1
        y.resize_(5, 6)
        y[4:].fill_(7)
        z = torch.empty(0).resize_(2, 3).fill_(1)
        return y, z.resize_(1).resize_(2, 3)

    check_compiled(grown, lambda: numbered(4, 6))

    def viewed(x: torch.Tensor) -> Any:
        y = x * 1
        z = y[0]
        y.resize_(50)
        return y, z

    with pytest.raises(UnsupportedError, match="grows a storage"):
        lt.compile(viewed)(numbered(4, 6))


def test_shrinking_and_growing_back_shows_the_old_elements() -> None:
    def f(x: torch.Tensor) -> Any:
        y = x * 1
        z = y.resize_(3).add_(1) * 1
        return y.resize_(4, 6), z

    check(f, lambda: numbered(4, 6))


@pytest.mark.parametrize(
    "call",
    [
        lambda x, out: torch.add(x, 1, out=out),
        lambda x, out: torch.mul(x.t(), 2, out=out),
        lambda x, out: torch.mm(x, x.t(), out=out),
        lambda x, out: torch.sum(x, 0, out=out),
        lambda x, out: torch.cat([x, x], 1, out=out),
    ],
)
@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
def test_an_out_tensor_is_resized(call: Any) -> None:
    check_compiled(lambda x: call(x, torch.empty(0)), lambda: numbered(4, 6))
    check_compiled(lambda x: call(x, torch.empty(3, 50)), lambda: numbered(4, 6))
    out = torch.empty(0)
    call(lt.lazy(numbered(4, 6)), out)
    wanted = call(numbered(4, 6), torch.empty(0))
    assert torch.equal(out, wanted) and out.stride() == wanted.stride()


def test_data_of_another_tensor_is_shared() -> None:
    def f(x: torch.Tensor, z: torch.Tensor) -> Any:
        y = x * 1
        y.data = z[1:]
        y.add_(1)
        y.data.mul_(2)
        return y, y.data

    check(f, lambda: numbered(4), lambda: numbered(4, 6))
    with pytest.raises(TypeError, match="data has to be a tensor"):
        lt.lazy(numbered(2)).data = 3  # type: ignore[assignment]


def test_set_shares_the_other_tensors_memory() -> None:
    def f(x: torch.Tensor, z: torch.Tensor) -> Any:
        y = x * 1
        y.set_(z.t()).add_(1)
        return y, y.mul_(3)

    check(f, lambda: numbered(4), lambda: numbered(4, 6))
    # In lazy use torch asks for the storage object, which is refused.
    part = lambda x, z: (x * 2).set_(z, 2, (2, 2)).mul_(3)  # noqa: E731
    check_compiled(part, lambda: numbered(4), lambda: numbered(4, 6))
    with pytest.raises(RuntimeError, match="Could not set tensor of type"):
        lt.compile(lambda x: (x * 1).set_(x.long()))(numbered(2))


def test_lazy_and_ordinary_memory_are_not_mixed() -> None:
    y = lt.lazy(numbered(3)) * 1
    with pytest.raises(UnsupportedError, match="share memory with an ordinary"):
        y.data = torch.ones(2)
    with pytest.raises(UnsupportedError, match="share memory with an ordinary"):
        y.set_(torch.ones(2))
    assert y.tolist() == [1, 2, 3]


@pytest.mark.parametrize("convert", [nn.Module.double, nn.Module.half])
def test_a_lazy_model_is_converted_in_place(convert: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    moved = convert(lt.lazy(net))
    wanted = convert(copy.deepcopy(net))
    for ours, theirs in zip(moved.parameters(), wanted.parameters(), strict=True):
        assert isinstance(ours, LazyTensor) and ours.requires_grad
        assert ours.dtype == theirs.dtype and torch.equal(ours.detach().torch(), theirs)
    assert next(net.parameters()).dtype == torch.float32


def test_gradients_flow_through_geometry_changed_in_place() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * torch.arange(6.0).view(2, 3)
        y.t_().unsqueeze_(0)
        return (y * y).sum()

    for fn, moved in ((f, torch.Tensor.clone), (lt.compile(f), torch.Tensor.clone), (f, lt.lazy)):
        leaf = numbered(2, 3).requires_grad_()
        x = moved(leaf)
        (grad,) = torch.autograd.grad(fn(x), x)
        wanted = 2 * leaf.detach() * torch.arange(6.0).view(2, 3) ** 2
        torch.testing.assert_close(grad.torch() if isinstance(grad, LazyTensor) else grad, wanted)


def test_detach_in_place_ends_the_history() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> Any:
        h = (x * w).relu()
        h.detach_()
        return h * w, h

    for fn in (f, lt.compile(f)):
        x, w = numbered(3), numbered(3).requires_grad_()
        result, h = fn(x, w)
        assert not h.requires_grad
        result.sum().backward()
        assert w.grad is not None and torch.equal(w.grad, h)

    def viewed(x: torch.Tensor) -> torch.Tensor:
        y = x * 1
        z = y[0]
        y.detach_()
        return y + z

    leaf = numbered(2, 3).requires_grad_()
    with pytest.raises(UnsupportedError, match="was viewed"):
        lt.compile(viewed)(leaf)
    with pytest.raises(RuntimeError, match="Can't detach views in-place"):
        lt.compile(lambda x: (x * 1)[0].detach_())(leaf)
    with pytest.raises(UnsupportedError, match="no_grad"):
        lt.compile(torch.no_grad()(lambda x: torch.enable_grad()(lambda: x * 1)().t_()))(leaf)


def test_geometry_changes_survive_a_cut() -> None:
    def f(x: torch.Tensor) -> Any:
        y = x * 2
        z = y[1:]
        y.t_()
        if y.sum() > 0:
            y.add_(1)
        return y, z, y.unsqueeze_(0)

    check_compiled(f, lambda: numbered(4, 6))
    check_compiled(f, lambda: -numbered(4, 6))
