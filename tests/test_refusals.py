"""Bad input gets a clear error and leaves everything as it was."""

import functools
from collections.abc import Callable

import pytest
import torch
from comparison import same
from torch import nn

import lazytorch as lt
from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.frontend.tensor import LazyTensor


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
    assert "test_refusals.py" in str(caught.value)
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


def test_a_hook_after_accumulation_is_refused_by_name() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        x.register_post_accumulate_grad_hook(lambda p: None)
        return x * 2

    with pytest.raises(UnsupportedError, match="hook"):
        lt.compile(f)(torch.ones(2, requires_grad=True))


def test_a_seed_is_refused_by_name_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # As torch._dynamo does when it is imported.
    monkeypatch.setattr(torch, "manual_seed", functools.partial(torch.random.manual_seed))

    def f(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return x + torch.rand(2)

    theirs = torch.manual_seed, torch.random.manual_seed
    before = torch.get_rng_state()
    with pytest.raises(UnsupportedError, match="manual_seed") as caught:
        lt.compile(f)(torch.ones(2))
    assert "test_refusals.py" in str(caught.value)
    assert torch.equal(torch.get_rng_state(), before)
    assert (torch.manual_seed, torch.random.manual_seed) == theirs


def test_objects_that_differ_from_call_to_call_are_refused() -> None:
    with pytest.raises(LazyTorchError, match="differ from call to call"):
        lt.compile(lambda x: (x, object()))(torch.ones(1))


def test_eagers_refusals_are_ours() -> None:
    with pytest.raises(RuntimeError, match="cast"):
        lt.compile(lambda x: x.mul_(1.5))(torch.ones(2, dtype=torch.long))
    with pytest.raises(RuntimeError, match="single memory location"):
        lt.compile(lambda x: x.expand(3, 2).add_(1))(torch.ones(1, 2))
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        lt.compile(lambda x: x.t().view(-1))(torch.ones(2, 3))


def test_a_kernel_on_a_list_of_tensors_is_refused_by_name() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        found, scale = torch.zeros(1), torch.ones(1)
        torch._amp_foreach_non_finite_check_and_unscale_([x], found, scale)
        return found

    with pytest.raises(UnsupportedError, match="list of tensors"):
        lt.compile(f)(torch.ones(2))


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x[0].fill_(2.0),
        lambda x: x[:, 0].copy_(torch.ones(3)),
        lambda x: x.diagonal().mul_(2),
        lambda x: x[:2].index_fill_(0, torch.tensor([1]), 5.0),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(4).expand(3, 4),
        lambda: torch.ones(3, 1).expand(3, 4),
    ],
)
def test_a_write_to_a_part_of_repeated_memory_is_refused_by_name(
    write: Callable[[torch.Tensor], object], make: Callable[[], torch.Tensor]
) -> None:
    x = make()
    with pytest.raises(LazyTorchError, match="more than one element") as caught:
        lt.compile(lambda x: write(x))(x)
    assert "test_refusals.py" in str(caught.value)
    assert bool((x == 1).all())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
@pytest.mark.parametrize("f", [torch.softmax, torch.log_softmax])
def test_softmax_of_integers_is_refused_where_there_are_any(
    f: Callable[..., torch.Tensor], dtype: torch.dtype
) -> None:
    none = torch.ones((0, 3), dtype=dtype)
    same(lt.compile(lambda x: f(x, 1))(none), f(none, 1))
    with pytest.raises(LazyTorchError, match="floating point"):
        lt.compile(lambda x: f(x, 1))(torch.ones((2, 3), dtype=dtype))


def test_what_torch_only_asserts_is_an_error_with_a_line_and_in_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.polar(x, x.long())

    with pytest.raises(LazyTorchError, match=r"aten\.polar") as caught:
        lt.compile(f)(torch.randn(3))
    assert "torch.polar(x, x.long())" in str(caught.value)
    assert not caplog.records
