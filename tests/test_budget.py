"""`max_bytes`: a step stays within it, leaves what eager's leaves, or is refused before it runs."""

import random
import runpy
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.devices import device_named
from lazytorch.errors import UnsupportedError
from lazytorch.forecast import plan_step
from lazytorch.ir import Graph
from lazytorch.lower.budget import Search
from lazytorch.lower.memory_plan import MemoryPlan
from lazytorch.lower.program import lower
from lazytorch.lower.timeline import Block, Timeline
from lazytorch.peak import footprint
from lazytorch.runtime.allocations import peak
from lazytorch.segments import choices, solve
from lazytorch.text import parse

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CPU = torch.device("cpu")


class Residual(nn.Module):
    """Two convolutions with batch norm, around which the input goes."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, out, 3, padding=1, bias=False)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for _ in range(2))
        self.around = nn.Conv2d(inside, out, 1) if inside != out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms[0](self.first(x)).relu()
        return (self.norms[1](self.second(y)) + self.around(x)).relu()


def images() -> tuple[nn.Module, Any, torch.Tensor, torch.Tensor]:
    blocks = [Residual(3, 8), Residual(8, 8), nn.MaxPool2d(2), Residual(8, 16), Residual(16, 16)]
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    return net, functional.cross_entropy, torch.randn(16, 3, 12, 12), torch.randint(5, (16,))


def words() -> tuple[nn.Module, Any, torch.Tensor, torch.Tensor]:
    gpt = runpy.run_path(str(BENCHMARKS / "small_gpt.py"))["SmallGpt"](32, 24, 16, 2, 2, 0.2)
    loss = lambda y, t: functional.cross_entropy(y.flatten(0, 1), t.flatten())  # noqa: E731
    return gpt, loss, torch.randint(32, (4, 24)), torch.randint(32, (4, 24))


CASES: dict[str, tuple[Callable[[], Any], Any]] = {
    "images": (images, partial(torch.optim.SGD, lr=0.05, momentum=0.9)),
    "words": (words, partial(torch.optim.AdamW, lr=1e-3)),
}

CLOSE = {"images": {"rtol": 1e-5, "atol": 1e-5}, "words": {"rtol": 1e-9, "atol": 1e-9}}


class Run:
    """A model from a seed with a step; and what a step takes, everything counted.

    Words in float64; images in float32, since torch's convolutions in float64 take more memory
    while they run than all that could be computed again.
    """

    def __init__(self, case: str, max_bytes: float | None = None, **options: Any) -> None:
        torch.manual_seed(0)
        make, optimizer = CASES[case]
        self.net, self.loss, x, self.y = make()
        self.x = x
        if case == "words":
            self.net = self.net.double()
        self.optimizer: torch.optim.Optimizer = optimizer(self.net.parameters())
        bound = {} if max_bytes is None else {"max_bytes": max_bytes}
        self.step = lt.train_step(self.net, self.loss, self.optimizer, **bound, **options)

    def tensors(self) -> list[torch.Tensor]:
        states = self.optimizer.state_dict()["state"].values()
        made = [x for s in states for x in s.values() if isinstance(x, torch.Tensor)]
        return [*self.net.state_dict().values(), *made]

    def steps(self, eager: bool = False) -> tuple[list[torch.Tensor], list[int]]:
        losses: list[torch.Tensor] = []
        peaks: list[int] = []
        for i in range(3):
            torch.manual_seed(i)
            before = sum(x.nbytes for x in (*self.tensors(), self.x, self.y))
            one = (lambda: self.step.eager((self.x, self.y), {})) if eager else self.call
            peaks.append(before + peak(lambda: losses.append(one()), CPU))  # noqa: B023
        return losses, peaks

    def call(self) -> torch.Tensor:
        return self.step(self.x, self.y)

    def work(self) -> int:
        """The calls of a step that is not the first."""
        (stage,) = self.step.compiled.programs()
        return len(stage.main.lines)


def refusal(case: str, max_bytes: float, **options: Any) -> lt.BudgetError:
    with pytest.raises(lt.BudgetError) as caught:
        Run(case, max_bytes, **options).call()
    return caught.value


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "clip_norm": 0.1}], ids=["", "parts"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_stays_within_any_budget_and_leaves_what_eagers_does(
    case: str, options: dict[str, Any]
) -> None:
    smallest = refusal(case, 1000, **options).smallest
    free = Run(case, 1e12, **options)
    losses, peaks = free.steps()
    want, _ = (theirs := Run(case, **options)).steps(eager=True)
    close = partial(torch.testing.assert_close, **CLOSE[case])
    close(losses, want)
    assert smallest < 0.9 * max(peaks)
    work = [free.work()]
    for part in (0.5, 0.0):
        budget = int(smallest + part * (max(peaks) - smallest))
        run = Run(case, budget, **options)
        losses, taken = run.steps()
        assert max(taken) <= budget
        close(losses, want)
        torch.testing.assert_close(run.tensors(), theirs.tensors(), rtol=1e-4, atol=1e-5)
        work.append(run.work())
    assert work == sorted(work) and work[-1] > work[0]
    assert smallest - 1 < refusal(case, smallest - 1, **options).smallest


def test_the_peak_is_what_was_planned() -> None:
    run = Run("words", 1e12)
    run.call()

    def planned(max_bytes: float) -> int:
        step, batch = run.step, ((run.x, run.y), {})
        more = {"max_bytes": max_bytes}
        found = plan_step(
            run.net, batch, device_named("cpu"), None, None, step.loss_fn, run.optimizer, more,
            measured=True,
        )  # fmt: skip
        return found.peak_bytes

    _, peaks = run.steps()
    assert peaks[0] == planned(1e12)
    assert planned(0.8 * peaks[0]) <= 0.8 * peaks[0]
    made = lt.plan(
        run.net, (run.x, run.y), loss_fn=run.loss, optimizer=run.optimizer,
        max_bytes=0.8 * peaks[0],
    )  # fmt: skip
    assert made.peak_bytes <= 0.8 * peaks[0]
    with pytest.raises(lt.BudgetError):
        lt.plan(run.net, (run.x, run.y), loss_fn=run.loss, optimizer=run.optimizer, max_bytes=9)


@pytest.mark.parametrize("eager_first", [False, True])
def test_what_is_refused_leaves_everything_as_it_was(eager_first: bool) -> None:
    run = Run("images", 200_000)
    if eager_first:
        run.step.eager((run.x, run.y), {})
    before = [x.clone() for x in run.tensors()]
    state = torch.get_rng_state()
    for _ in range(2):  # a second call is refused as the first was
        with pytest.raises(lt.BudgetError, match="does not fit in") as caught:
            run.call()
        assert "the smallest max_bytes that can be met" in str(caught.value)
        assert "try a smaller batch" in str(caught.value)
    torch.testing.assert_close(run.tensors(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in run.net.parameters())
    assert caught.value.smallest > 200_000


@pytest.mark.parametrize("case", CASES)
def test_options_of_the_step_keep_their_meaning(case: str) -> None:
    options: dict[str, Any] = {"skip_nonfinite": True, "keep_grads": True}
    budget = refusal(case, 1000, **options).smallest
    run, theirs = Run(case, budget, **options), Run(case, **options)
    losses, peaks = run.steps()
    want, _ = theirs.steps(eager=True)
    assert max(peaks) <= budget
    torch.testing.assert_close(losses, want, **CLOSE[case])
    for p, q in zip(run.net.parameters(), theirs.net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)
    before = [x.clone() for x in run.net.state_dict().values()]
    with torch.no_grad():
        next(run.net.parameters()).mul_(float("inf"))
    before[0] = next(iter(run.net.state_dict().values())).clone()
    for p in run.net.parameters():
        p.grad = None
    run.call()
    after = list(run.net.state_dict().values())
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


def test_a_call_without_gradients_is_refused_above_its_budget_and_one_with_gradients_by_name() -> (
    None
):
    net, x = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)), torch.randn(100, 64)
    fast = lt.compile(net, max_bytes=1e9)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
        with pytest.raises(lt.BudgetError, match="does not fit"):
            lt.compile(net, max_bytes=80_000)(x)
    with pytest.raises(UnsupportedError, match="max_bytes bounds a training step"):
        fast(x)


def test_a_step_that_cannot_be_recorded_is_not_eagers_under_a_budget() -> None:
    net = nn.Linear(4, 4)

    def loss(y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return y.sum() if float(y.sum()) > 0 else t.sum() * y.sum()

    step = lt.train_step(net, loss, torch.optim.SGD(net.parameters(), 0.1), max_bytes=1e9)
    before = net.weight.clone()
    with pytest.raises(RuntimeError):
        step(torch.randn(2, 4), torch.randn(2))
    assert torch.equal(net.weight, before)
    assert not step.refused


def test_parts_of_a_batch_follow_each_other() -> None:
    def needs(**train: Any) -> int:
        run = Run("images")
        example = run.x.repeat(8, 1, 1, 1), run.y.repeat(8)
        made = lt.plan(run.net, example, loss_fn=run.loss, optimizer=run.optimizer, train=train)
        return made.activations

    assert needs(accumulate=4) < 0.5 * needs()


def test_a_forward_that_writes_into_a_part_of_the_batch_is_not_recorded() -> None:
    run = Run("images", accumulate=2)
    inner = run.net.forward
    run.net.forward = lambda x: inner(x.mul_(0.5))  # type: ignore[method-assign]
    twin = run.x.clone()
    run.call()
    run.call()
    assert "writes into a batch" in run.step.refused
    torch.testing.assert_close(run.x, twin * 0.25)


class Tried(Search[Any]):
    """A search among plans with such peaks, and estimates that are wrong by some bytes."""

    def __init__(self, peaks: list[int], wrong: list[int]) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]
        self.peaks = peaks
        self.estimates = {k: p + w for k, (p, w) in enumerate(zip(peaks, wrong, strict=True))}
        self.tried: set[int] = set()

    def most(self) -> int:
        return len(self.peaks) - 1

    def peak(self, again: int) -> int:
        self.tried.add(again)
        self.plans[again] = MemoryPlan("a step", device_named("cpu"), 0, 0, Timeline((), ()), 0)
        return self.peaks[again]


CURVES = [
    [100, 90, 80, 70],
    [100, 80, 85, 60, 65, 66],
    [100, 100, 40, 50, 30, 35, 32, 31],
    [100 - k for k in range(50)],
]


@pytest.mark.parametrize("peaks", CURVES, ids=["falls", "wavers", "jumps", "long"])
@pytest.mark.parametrize("error", [0, 1, 7, 40])
def test_more_bytes_never_mean_more_work(peaks: list[int], error: int) -> None:
    draws = random.Random(0)
    for _ in range(20):
        wrong = [draws.randint(-error, error) for _ in peaks]
        found: list[tuple[int, int]] = []
        refused: set[int] = set()
        for limit in range(min(peaks) - 1, 101):
            try:
                found.append((limit, Tried(peaks, wrong).fewest(limit)))
            except lt.BudgetError:
                refused.add(limit)
        assert all(peaks[k] <= limit for limit, k in found)
        assert [k for _, k in found] == sorted((k for _, k in found), reverse=True)
        assert all(limit < found[0][0] for limit in refused)
        if not error:
            assert found[0][0] == min(peaks)


def test_a_few_plans_are_enough_where_estimates_are_right() -> None:
    for limit in range(51, 100):
        search = Tried(CURVES[-1], [-13] * 50)
        assert search.fewest(limit) == 100 - limit
        assert len(search.tried) <= 3


def test_all_pieces_of_a_workspace_are_in_an_estimate() -> None:
    graph = parse("graph(%x: f32[8, 4], %y: f32[4, 8]) { %0 = matmul %x %y return %0 }")
    pieces = [Block(n, n, "workspace", "matmul", None, CPU, 0, 0, 0) for n in (70, 30)]
    search = Tried([100], [0])
    search.plans[0] = MemoryPlan("a", device_named("cpu"), 0, 0, Timeline(("",), tuple(pieces)), 0)
    search.found[0] = SimpleNamespace(main=lower(graph, None, "program"))
    assert search.taken(graph.outputs[0]) == 100


def blocks(count: int) -> Callable[..., MemoryPlan]:
    """The plan of a step of layers that are the same, for which an option is given."""
    block = [nn.LayerNorm(32), nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32)]
    net = nn.Sequential(nn.Linear(32, 32), *(deepcopy(m) for _ in range(count) for m in block))
    batch = torch.randn(512, 32), torch.randn(512, 32)
    step: Any = {"loss_fn": functional.mse_loss, "optimizer": torch.optim.SGD}
    return partial(lt.plan, net, batch, **step)


def test_a_search_plans_a_step_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Search[Any]] = []
    begin = Search.__init__

    def seen(search: Search[Any], *given: Any) -> None:
        made.append(search)
        begin(search, *given)

    monkeypatch.setattr(Search, "__init__", seen)
    planned = blocks(8)
    with pytest.raises(lt.BudgetError) as caught:
        planned(max_bytes=1000)
    smallest, largest = caught.value.smallest, made[0].plans[0].peak_bytes
    for part in (0, 0.4, 0.7):
        budget = int(smallest + part * (largest - smallest))
        assert planned(max_bytes=budget).peak_bytes <= budget
        assert len(made[-1].plans) <= 4 < made[-1].most()
        for again, steps in made[-1].steps.items():
            assert made[-1].estimate(again) >= footprint(steps[-1][2]).call


def test_what_was_found_for_a_step_is_not_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Search[Any]] = []
    begin = Search.__init__

    def seen(search: Search[Any], *given: Any) -> None:
        made.append(search)
        begin(search, *given)

    budget = int(1.05 * refusal("images", 1000).smallest)
    monkeypatch.setattr(Search, "__init__", seen)
    run = Run("images", budget)
    _, peaks = run.steps()
    before, gradients, later = made
    assert len(before.plans) > 1 and len(gradients.plans) > 1
    (again,) = later.plans
    assert again in before.plans and later.plans[again].peak_bytes <= budget
    assert max(peaks) <= budget


def test_layers_that_are_the_same_are_solved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[int] = []
    graphs: list[Graph] = []

    def counted(*given: Any) -> Any:
        cuts.append(1)
        return solve(*given)

    def looked(graph: Graph, *given: Any) -> Any:
        graphs.append(graph)
        return choices(graph, *given)

    monkeypatch.setattr("lazytorch.segments.solve", counted)
    monkeypatch.setattr("lazytorch.lower.budget.choices", looked)
    counts: list[tuple[int, int]] = []
    for layers in (4, 8):
        with pytest.raises(lt.BudgetError):
            blocks(layers)(max_bytes=1000)
        cuts.clear()
        some = choices(graphs[-1])
        counts.append((len(some), len(cuts)))
        with monkeypatch.context() as each:
            each.setattr("lazytorch.segments.shape", lambda *given: [object()])
            alone = choices(graphs[-1])  # each solved for itself
        assert [(x.made, x.freed) for x in alone] == [(x.made, x.freed) for x in some]
    (fewer, once), (more, again) = counts
    assert more > fewer and again == once
