"""Lazy tensors behave like torch tensors and NumPy arrays, and run when they are looked at."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.errors import UnsupportedError
from lazytorch.frontend.tensor import LazyTensor


def flushes() -> int:
    return sum(line.startswith("flush") for line in lt.report().splitlines())


def test_nothing_runs_until_someone_looks() -> None:
    lt.reset()
    a = lt.tensor(np.random.rand(3, 3), device="cpu")
    b = (a @ a).relu().sum()
    assert isinstance(b, LazyTensor) and b.shape == () and b.dtype == torch.float64
    assert flushes() == 0
    expected = (a.torch() @ a.torch()).relu().sum().item()
    assert b.item() == pytest.approx(expected)
    assert flushes() == 1
    assert b.item() == pytest.approx(expected)  # known by now
    assert flushes() == 1


def test_eval_runs_several_at_once_and_keeps_what_is_shared() -> None:
    lt.reset()
    a = lt.tensor([1.0, 2.0])
    b = a * 2
    c, d = b + 1, b - 1
    lt.eval(c, [d])
    assert (c.tolist(), d.tolist(), b.tolist()) == ([3, 5], [1, 3], [2, 4])
    assert flushes() == 1


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: lt.zeros(2, 3), torch.zeros(2, 3)),
        (lambda: lt.ones((2,), dtype=torch.int64), torch.ones(2, dtype=torch.int64)),
        (lambda: lt.full((2,), 7), torch.full((2,), 7)),
        (lambda: lt.arange(1, 7, 2), torch.arange(1, 7, 2)),
        (lambda: lt.eye(3), torch.eye(3)),
        (lambda: lt.empty(2, 0), torch.empty(2, 0)),
        (lambda: lt.tensor([1, 2], dtype=torch.float16, device=-1), torch.tensor([1.0, 2]).half()),
        (lambda: lt.from_numpy(np.arange(3)), torch.arange(3)),
        (lambda: lt.from_dlpack(torch.arange(3)), torch.arange(3)),
        (lambda: lt.lazy(torch.arange(3)), torch.arange(3)),
    ],
)
def test_factories(made: Any, expected: torch.Tensor) -> None:
    x = made()
    assert isinstance(x, LazyTensor)
    torch.testing.assert_close(x.torch(), expected)
    assert x.dtype == expected.dtype


def test_random_numbers_are_eagers_in_eagers_order() -> None:
    torch.manual_seed(0)
    theirs = torch.rand(2), torch.randn(3), torch.rand(1)
    torch.manual_seed(0)
    ours = lt.rand(2), torch.randn(3), lt.rand(1)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.torch() if isinstance(a, LazyTensor) else a, b)


def test_views_and_writes_behave_as_in_eager() -> None:
    x, y = lt.zeros(4), torch.zeros(4)
    for z in (x, y):
        z[1] = 5
        z += 1
        tail = z[1:]
        tail *= 2
        z.view(2, 2).t()[0].add_(10)
    torch.testing.assert_close(x.torch(), y)
    torch.testing.assert_close(x[1:].torch(), y[1:])


def test_numpy_and_python_protocols() -> None:
    x = lt.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert np.asarray(x).tolist() == [[1, 2], [3, 4]]
    assert np.asarray(x, dtype=np.int32).dtype == np.int32
    assert torch.from_dlpack(x).tolist() == [[1, 2], [3, 4]]
    assert len(x) == 2 and [row.sum().item() for row in x] == [3, 7]
    assert float(x[0, 0]) == 1.0 and int(x[1, 1]) == 4 and bool(x[0, 0] > 0)
    assert list(range(5))[x[0, 1].long()] == 2
    assert f"{x.sum():.1f}" == "10.0"
    assert repr(x) == repr(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def test_numpy_result_does_not_share_memory_with_the_graph() -> None:
    x = lt.ones(3)
    x.numpy()[:] = 7
    x.torch().zero_()
    assert x.tolist() == [1, 1, 1]


def test_a_write_into_a_real_tensor_happens_at_once() -> None:
    real = torch.zeros(3)
    real.add_(lt.ones(3) * 2)
    assert real.tolist() == [2, 2, 2]


def test_changing_a_tensor_that_deferred_work_still_reads_is_refused() -> None:
    real = torch.ones(3)
    y = lt.zeros(3) + real
    real.add_(1)
    with pytest.raises(UnsupportedError, match="modified in place"):
        y.tolist()


def test_the_pending_graph_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lazytorch.frontend.pending.OPERATIONS", 50)
    lt.reset()
    x = lt.zeros(2)
    for _ in range(200):
        x = x + 1
    assert flushes() >= 3
    assert x.tolist() == [200, 200]


def test_a_long_chain_does_not_recurse() -> None:
    x = lt.zeros(2)
    for _ in range(6000):
        x = x + 1
    assert x.tolist() == [6000, 6000]


def test_sizes_that_depend_on_values() -> None:
    x = lt.tensor([1.0, -1.0, 2.0])
    assert x[x > 0].tolist() == [1, 2]
    assert x.nonzero().shape == (3, 1)


def test_lt_disable_gets_real_tensors() -> None:
    @lt.disable
    def host(x: torch.Tensor) -> torch.Tensor:
        assert type(x) is torch.Tensor
        return x * 2

    assert host(lt.ones(2) + 1).tolist() == [4, 4]


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 2)
    )


def test_a_whole_model_moves_over_by_one_call() -> None:
    model = build().eval()
    moved = lt.lazy(model)
    x = torch.randn(3, 4)
    assert all(
        isinstance(p, LazyTensor) and isinstance(p, nn.Parameter) for p in moved.parameters()
    )
    assert not any(isinstance(p, LazyTensor) for p in model.parameters())
    with torch.no_grad():
        y = moved(x)
        assert isinstance(y, LazyTensor)
        torch.testing.assert_close(y.torch(), model(x))


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    moved = lt.lazy(model)
    assert moved[1].weight is moved[0].weight


def test_training_lazily_follows_eager() -> None:
    theirs, ours = build(), lt.lazy(build())
    steps = [torch.optim.SGD(m.parameters(), 0.1, foreach=False) for m in (ours, theirs)]
    for seed in range(3):
        torch.manual_seed(100 + seed)
        x = torch.randn(8, 4)
        losses: list[float] = []
        for model, step in zip((ours, theirs), steps, strict=True):
            torch.manual_seed(seed)
            step.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            step.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a.torch().detach(), b, rtol=1e-5, atol=1e-6)


def test_gradients_reach_lazy_leaves() -> None:
    w = lt.tensor([1.0, 2.0], requires_grad=True)
    (w * w).sum().backward()
    assert isinstance(w.grad, LazyTensor) and w.grad.tolist() == [2, 4]
