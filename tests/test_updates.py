"""An optimizer's step, written as arithmetic on lists of tensors: few launches, eager's numbers."""

from __future__ import annotations

import pytest
import torch

import lazytorch as lt
from lazytorch.lower import tables
from lazytorch.lower.tables import ROOM, Tables, recording
from lazytorch.ops.foreach import Foreach

Lists = list[list[torch.Tensor]]
SHAPES = ((1,), (17,), (3, 5), (), (64,), (8, 3, 3, 3), (0,), (101,), (257, 3), (1031,))


def adamw(
    params: list[torch.Tensor],
    grads: list[torch.Tensor],
    means: list[torch.Tensor],
    squares: list[torch.Tensor],
    lr: float,
) -> None:
    for p, g, m, v in zip(params, grads, means, squares, strict=True):
        p.mul_(1 - lr * 0.01)
        m.lerp_(g, 0.1)
        v.mul_(0.999).addcmul_(g, g, value=0.001)
        p.addcdiv_(m, v.sqrt().add_(1e-8), value=-lr)


def state(count: int, dtype: torch.dtype) -> Lists:
    torch.manual_seed(0)
    shapes = [SHAPES[i % len(SHAPES)] for i in range(count)]
    lists = [[torch.randn(s).to(dtype) for s in shapes] for _ in range(4)]
    return [*lists[:3], [x.abs() for x in lists[3]]]


@torch.no_grad()
@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_thirty_parameters_are_one_launch(dtype: torch.dtype, wait: bool) -> None:
    ours, theirs = state(30, dtype), state(30, dtype)
    fast = lt.compile(adamw, wait=wait)
    for step in range(6):
        lr = 0.1 / (step + 1)
        fast(*ours, lr)
        adamw(*theirs, lr)
        for mine, other in zip(ours, theirs, strict=True):
            for x, y in zip(mine, other, strict=True):
                torch.testing.assert_close(x, y)
        ours[1] = [x + 1 for x in ours[1]]  # gradients move
        theirs[1] = [x + 1 for x in theirs[1]]
    fast.wait()
    program = fast.programs()[-1].main
    assert [type(x.op) for x in program.calls] == [Foreach]
    assert "copy_" not in program.source
    assert "addcdiv, on 0 to 1031 elements" in fast.explain()


@torch.no_grad()
def test_large_parameters_are_launches_of_their_own() -> None:
    lists = state(6, torch.float32)
    for tensors in lists:
        tensors += [torch.full((400, 500), 0.5), torch.full((600, 400), 0.5)]
    theirs = [[x.clone() for x in tensors] for tensors in lists]
    fast = lt.compile(adamw, wait=True)
    for lr in (0.1, 0.2, 0.3):
        fast(*lists, lr)
        adamw(*theirs, lr)
    assert len(fast.programs()[-1].main.calls) == 3
    for mine, other in zip(lists, theirs, strict=True):
        for x, y in zip(mine, other, strict=True):
            torch.testing.assert_close(x, y)


@torch.no_grad()
def test_measuring_changes_nothing(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYTORCH_CACHE", str(tmp_path))
    ours, theirs = state(5, torch.float64), state(5, torch.float64)
    fast = lt.compile(adamw, wait=True, tune=True)
    for _ in range(4):
        fast(*ours, 0.1)
        adamw(*theirs, 0.1)
    for mine, other in zip(ours, theirs, strict=True):
        for x, y in zip(mine, other, strict=True):
            torch.testing.assert_close(x, y)


# Tables, on a GPU that is not there.


class Capturing:
    """Whether a graph is being recorded, as torch would say it."""

    now = False


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> type[Capturing]:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: Capturing.now)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 7, raising=False)
    monkeypatch.setattr(Capturing, "now", False)
    upload = tables.uploaded
    monkeypatch.setattr(tables, "uploaded", lambda xs, device: upload(xs, torch.device("cpu")))
    return Capturing


def test_a_table_is_made_anew_for_other_addresses_and_never_changed(
    capturing: type[Capturing],
) -> None:
    found = Tables(torch.device("cuda", 0))
    first = found.find(1, 2)
    assert first is not None and found.find(1, 2) is first
    other = found.find(1, 3)
    assert other is not None and first.tolist() == [1, 2] and other.tolist() == [1, 3]
    for k in range(20):
        found.find(k, k)
    assert len(found.known) <= tables.KEPT and first.tolist() == [1, 2]


def test_while_a_graph_is_recorded_tables_wait_for_its_end(capturing: type[Capturing]) -> None:
    cpu, found = torch.device("cpu"), Tables(torch.device("cuda", 0))
    with recording(cpu) as recorded:
        capturing.now = True
        one, two, again = found.find(1, 2, 3), found.find(4, 5), found.find(1, 2, 3)
        assert one is not None and two is not None and again is not None
        assert again.data_ptr() != one.data_ptr()  # each launch of a graph keeps its own
        assert found.find(*range(ROOM)) is None
        capturing.now = False
    memory = recorded.fill()
    assert (one.tolist(), two.tolist(), again.tolist()) == ([1, 2, 3], [4, 5], [1, 2, 3])
    assert memory is not None and not found.known
    assert all((x.data_ptr() - memory.data_ptr()) % 16 == 0 for x in (one, two, again))


def test_there_is_no_table_in_somebody_elses_recording(capturing: type[Capturing]) -> None:
    capturing.now = True
    assert Tables(torch.device("cuda", 0)).find(1, 2) is None
    with recording(torch.device("cpu")) as recorded:
        pass
    assert recorded.fill() is None
    assert Tables(torch.device("cuda", 0)).find(1, 2) is None
