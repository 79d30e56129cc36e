"""Plans of memory: equal to what runs allocate, and made for devices that are not here."""

import html
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench.lines import walk
from lazytorch.devices import DEVICES, device_named
from lazytorch.errors import DeviceError, LazyTorchError
from lazytorch.forecast import largest_batch
from lazytorch.frontend import trees
from lazytorch.lower.allocation import allocation
from lazytorch.lower.caching import CachingAllocator
from lazytorch.lower.memory_plan import size
from lazytorch.lower.program import lower
from lazytorch.lower.timeline import timeline
from lazytorch.lower.workspaces import workspaces
from lazytorch.runtime.allocations import peak
from lazytorch.text import parse

CPU = torch.device("cpu")


def level(text: str) -> list[int]:
    """The level of each line of a program whose calls are torch's."""
    return timeline(lower(parse(dedent(text)), None, "program")).levels()


X = "graph(%x: f32[4, 8]"  # 128 bytes


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        (f"{X}) {{ return %x }}", [128, 128]),
        (f"{X}) {{ %0 = exp %x return %0 }}", [128, 128, 128]),
        (f"{X}) {{ %0 = softmax{{dim=-1}} %x %1 = softmax{{dim=-1}} %0 return %1 }}",
         [128, 256, 128, 128]),
        (f"{X}) {{ %0 = exp %x %1 = reshape{{shape=(32,)}} %0 return %1 }}", [128, 128, 128, 128]),
        (f"{X}) {{ %0 = permute{{perm=(1, 0)}} %x %1 = reshape{{shape=(32,)}} %0 return %1 }}",
         [0, 128, 256, 256]),
        (f"{X}) {{ %0 = exp %x return %0, %0 }}", [128, 128, 256, 256]),
        (f"{X}) {{ %0 = max_dim{{dim=0}} %x %1 = item{{index=0}} %0 return %1 }}",
         [96, 96, 32, 32]),
    ],
    ids=["an input returned is copied", "one call", "before the operand goes", "a view",
         "a copying reshape", "returned twice", "a tuple goes with its last element"],
)  # fmt: skip
def test_the_level_of_each_line(text: str, levels: list[int]) -> None:
    assert level(text) == levels


class Net(nn.Module):
    """Convolutions, norms, a residual, pooling, a product."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.out = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.a(x))
        x = F.max_pool2d(F.relu(self.norm(self.b(x)) + x), 2)
        return self.out(x.mean((2, 3)))


class Block(nn.Module):
    """A transformer's layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 128), nn.Linear(128, 32)
        self.one, self.two = nn.LayerNorm(32), nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.one(x)).view(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.two(x))))


class Layout(nn.Module):
    """Views, joins, gathers, sums and several outputs, one of them an input's view."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.cat([x, x.flip(0) * 2], 1)
        top = y.topk(3, dim=1)
        return x.t(), y.cumsum(0), top.values.exp(), y[:, ::2].contiguous().view(-1), y.std(1)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (Net, (2, 3, 17, 16)),
    "attention": (Block, (3, 20, 32)),
    "layout": (Layout, (13, 7)),
    "recurrent": (lambda: First(nn.LSTM(12, 10, 2)), (9, 2, 12)),
    "products": (lambda: nn.Sequential(nn.Linear(33, 65), nn.Tanh(), nn.Linear(65, 3)), (7, 33)),
}


class First(nn.Module):
    """The first of a module's results."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)[0]


@pytest.mark.parametrize("lies", ["", "{3072, 1, 96, 3}"], ids=["copied", "in place"])
def test_a_copy_that_cudnn_makes_first_lies_before_the_result(lies: str) -> None:
    conv = "cudnn_convolution_relu{stride=(1, 1), padding=(1, 1), dilation=(1, 1)}"
    image, weight = 2 * 3 * 32 * 32 * 4, "f32[8, 3, 3, 3]{27, 1, 9, 3} on cuda:0"
    graph = parse(
        f"graph(%x: f32[2, 3, 32, 32]{lies} on cuda:0, %w: {weight}, %b: f32[8] on cuda:0) "
        f"{{ %0 = {conv} %x %w %b return %0 }}"
    )
    blocks = timeline(lower(graph, None, "program"), lambda node: image + 1000).blocks
    assert [(x.kind, x.nbytes) for x in blocks] == (
        [("library", 2 * 8 * 32 * 32 * 4), ("workspace", image + 1000)]
        if lies
        else [("workspace", image), ("library", 2 * 8 * 32 * 32 * 4), ("workspace", 1000)]
    )


def check(compiled: lt.Compiled, leaves: list[Any], planned: lt.MemoryPlan) -> None:
    """Every line leaves what its allocation says, and the whole call takes what is planned."""
    (stage,) = compiled.programs()
    with torch.no_grad():
        inputs = [*stage.state.inputs(leaves, []), *stage.values]
        took: dict[object, int] = {}
        for x in walk(stage.main, inputs, CPU):
            node = x.line.node
            if x.line.does == "call" and node is not None:
                does = allocation(node, x.line.site)
                fresh = [n for k, n in enumerate(does.sizes) if k not in x.line.into]
                assert x.left == sum(fresh), x.line.text
                took[node.op, tuple(y.type for y in node.inputs)] = x.scratch
            elif x.line.does not in ("copy", "clone"):
                assert x.left == 0, x.line.text
        highest = peak(lambda: stage.main.run(*inputs), CPU)
    known = timeline(
        stage.main, lambda node: took.get((node.op, tuple(y.type for y in node.inputs)), 0)
    )
    assert abs(max(known.levels()) - highest) <= 0.01 * highest
    blocks = [(x.operation, x.nbytes, x.kind) for x in known.blocks if x.kind != "workspace"]
    begun = planned.prologue_lines
    assert blocks == [
        (x.operation, x.nbytes, x.kind)
        for x in planned.timeline.blocks
        if x.born >= begun and x.kind != "workspace"
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_call_allocates_what_is_planned_before_it(name: str) -> None:
    make, shape = CASES[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(shape)
    planned = lt.plan(model, x)
    compiled = lt.compile(model, wait=True)
    assert compiled.memory(x).peak_bytes == planned.peak_bytes  # recorded from real tensors
    assert not compiled.plans
    with torch.no_grad():
        compiled(x)
    check(compiled, [x], planned)
    assert planned.parameters == sum(
        p.untyped_storage().nbytes() for p in [*model.parameters(), *model.buffers()]
    )
    assert planned.arguments == x.untyped_storage().nbytes()


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_explain_says_the_planned_peak(name: str, freeze: bool) -> None:
    make, shape = CASES[name]
    compiled, x = lt.compile(make().eval(), wait=True, freeze=freeze), torch.randn(shape)
    with torch.no_grad():
        compiled(x)
    planned = compiled.memory(x)
    assert f"{size(planned.peak_bytes)} at the peak: " in compiled.explain()
    (stage,) = compiled.programs()
    assert stage.plan().peak_bytes == planned.peak_bytes


@pytest.mark.parametrize("name", ["convolutions", "attention", "products"])
def test_a_training_step_allocates_what_is_planned(name: str) -> None:
    make, shape = CASES[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    target = torch.zeros_like(model(x))
    planned = lt.plan(
        model, (x, target), loss_fn=F.mse_loss, optimizer=torch.optim.AdamW, wait=True
    )
    adam = torch.optim.AdamW(model.parameters())
    step = lt.train_step(model, F.mse_loss, adam, wait=True)
    for _ in range(2):
        step(x, target)
    leaves = trees.flatten(((step.settings(), (x, target), {}), {}))[0]
    check(step.compiled, leaves, planned)


@pytest.mark.parametrize("device", ["cpu", "h200"])
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "gpt2"])
def test_values_take_little_more_than_what_is_of_use_at_once(name: str, device: str) -> None:
    if zoo.models()[name].family == "cnn":
        zoo._ready_for_torchvision()
    model, args, kwargs = zoo.build(name, device="meta", batch=8)
    planned = lt.plan(model, args, device=device, kwargs=kwargs)
    assert planned.lower_bound <= planned.values <= 1.02 * planned.lower_bound
    assert planned.values <= planned.peak_bytes - planned.held
    assert planned.lower_bound > planned.arguments  # a plan of nothing would fit any bound


def test_what_nothing_reads_any_more_is_of_no_use() -> None:
    text = (
        f"{X}) {{ %0 = exp %x %1 = sin %0 %2 = max_dim{{dim=0}} %1 %3 = item{{index=1}} %2 "
        "%4 = neg %3 return %4 }"
    )
    program = lower(parse(text), None, "program")
    found = timeline(program)
    # The values, 32 bytes, are of no use behind the line that makes them with the indices.
    assert found.values() == [128, 256, 128 + 96, 96, 128, 64, 64]
    assert found.live() == [128, 256, 128 + 96, 64, 128, 64, 64]
    lines = [replace(x, dead=()) for x in program.lines]
    careless = timeline(replace(program, lines=lines))
    assert careless.live() == found.live()
    assert max(careless.values()) > max(found.values())


def test_a_plan_for_a_gpu_needs_none_and_no_parameters() -> None:
    with torch.device("meta"):
        model, x = Block().bfloat16(), torch.empty(3, 20, 32, dtype=torch.bfloat16)
    planned = lt.plan(model, x, device="h200")
    assert planned.device is DEVICES["h200"] and planned.fits
    assert all(x.device.type == "cuda" for x in planned.timeline.blocks)
    assert all(x.taken % 512 == 0 for x in planned.timeline.blocks)
    assert planned.seconds and "scaled_dot_product_attention" in planned.unknown
    assert all(p.is_meta for p in model.parameters())
    again = lt.plan(model, x, device="h200", batch=300)
    assert again.activations > 50 * planned.activations
    text = str(again)
    assert "lower bound" in text and "fits" in text and Path(__file__).name in text


def test_a_training_step_for_a_gpu_in_a_region_of_autocast() -> None:
    model, x = Block(), torch.randn(3, 20, 32)
    whole = lt.plan(model, (x, x), device="l4", loss_fn=F.mse_loss, optimizer=torch.optim.AdamW)
    optimizer = torch.optim.AdamW(model.parameters())
    half = lt.plan(
        model, (x, x), device="l4", loss_fn=F.mse_loss, optimizer=optimizer, amp=torch.bfloat16
    )
    assert half.activations < whole.activations
    assert half.parameters == whole.parameters
    assert not torch.is_autocast_enabled("cuda")
    assert not optimizer.state and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("device", ["cpu", "h200"])
@pytest.mark.parametrize("lr", [1e-3, torch.tensor(1e-3)], ids=["number", "tensor"])
def test_a_plan_of_an_optimizer_that_has_stepped(device: str, lr: Any) -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.PReLU(1)), torch.randn(2, 3)
    model.register_parameter("scale", nn.Parameter(torch.ones(())))  # 0-d, as counts of steps are
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

    def loss(y: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return (y * 2).sum()

    def planned() -> lt.MemoryPlan:
        return lt.plan(model, (x, x), device=device, loss_fn=loss, optimizer=optimizer)

    fresh = planned()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()
    before = {p: dict(state) for p, state in optimizer.state.items()}
    again = planned()
    assert (again.peak_bytes, again.parameters) == (fresh.peak_bytes, fresh.parameters)
    assert {p: dict(state) for p, state in optimizer.state.items()} == before  # the same objects


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": torch.optim.SGD, "train": {"clip_norn": 1.0}}, "'clip_norn'.*\n.*clip_norm"),
        ({"optimizer": torch.optim.SGD, "frezee": True}, "'frezee'.*\n.*freeze"),
        ({"frezee": True}, "'frezee'.*\n.*freeze"),
        ({"numerics": "egaer"}, "'egaer'.*\n.*eager"),
        ({"train": {"clip_norm": 1.0}}, "needs an optimizer\n.*train"),
        ({"loss_fn": F.mse_loss}, "needs an optimizer\n.*loss_fn"),
        ({"optimizer": torch.optim.SGD, "train": {"accumulate": 0}}, "accumulate"),
    ],
)  # fmt: skip
def test_a_plan_refuses_what_it_does_not_know(given: dict[str, Any], said: str) -> None:
    with pytest.raises(LazyTorchError, match=said):
        lt.plan(nn.Linear(3, 3), (torch.ones(2, 3), torch.ones(2, 3)), **given)


def test_constants_keep_their_values_among_stand_ins() -> None:
    class Picks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, torch.tensor([2, 0])]  # what is picked decides whether it is in bounds

    x = torch.randn(4, 3)
    assert lt.plan(Picks(), x).peak_bytes == lt.compile(Picks()).memory(x).peak_bytes


def test_a_scaler_is_planned_and_left_as_it_was() -> None:
    scaler = torch.amp.GradScaler("cpu")
    model, x = nn.Linear(3, 3), torch.ones(2, 3)
    given: dict[str, Any] = {"loss_fn": F.mse_loss, "optimizer": torch.optim.SGD}
    without = lt.plan(model, (x, x), **given)
    scaled = lt.plan(model, (x, x), train={"scaler": scaler}, **given)
    assert scaled.parameters == without.parameters + 8  # the scale and its count of steps
    assert scaler._scale is None


def test_what_needs_a_value_has_no_plan() -> None:
    with pytest.raises(LazyTorchError, match="cut"):
        lt.plan(Cut(), torch.ones(3))


class Cut(nn.Module):
    """Python that asks for a value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x


def test_the_allocator_of_a_gpu() -> None:
    allocator = CachingAllocator()
    assert allocator.allocate(1).size == 512
    large = allocator.allocate(3 * 2**20)
    assert large.size == 3 * 2**20 and allocator.reserved == 22 * 2**20
    allocator.release(large)
    assert allocator.allocate(20 * 2**20).size == 20 * 2**20  # joined with what was split off
    assert allocator.reserved == 22 * 2**20
    own = allocator.allocate(11 * 2**20)
    assert own.size == 12 * 2**20  # of 12 MiB: the rest is too small to be of use


@pytest.mark.parametrize(("slope", "limit"), [(7, 1000), (7, 10), (3, 2)])
def test_the_largest_batch_that_fits(slope: int, limit: int) -> None:
    asked: list[int] = []

    def bytes_of(batch: int) -> int:
        asked.append(batch)
        return slope * batch

    assert largest_batch(bytes_of, limit) == limit // slope
    assert len(asked) <= 8


def test_devices_by_name() -> None:
    assert device_named("RTX 4090") is DEVICES["rtx4090"]
    assert device_named("cpu").memory is None
    with pytest.raises(DeviceError, match="no device is called"):
        device_named("h9000")


def test_a_plan_is_drawn_with_every_name_escaped(tmp_path: Path) -> None:
    planned = lt.plan(nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1)), torch.ones(2, 3))
    text = lt.view(planned, tmp_path / "memory.html").read_text()
    assert "linear" in text and html.escape(planned.name) in text
    with pytest.raises(LazyTorchError, match="html"):
        lt.view(planned, tmp_path / "memory.svg")


def test_what_a_cuda_graph_keeps_is_in_the_plan() -> None:
    """It reads copies of the arguments, and its stream has a workspace of cuBLAS's of its own."""
    model, x = nn.Linear(64, 32, device="meta"), torch.empty(1024, 64, device="meta")
    moving = lt.plan(model, x, device="h200")
    still = lt.plan(model, x, device="h200", static_inputs=True)
    assert (moving.copies, still.copies) == (x.nbytes, 0)
    assert moving.peak_bytes - still.peak_bytes == x.nbytes
    assert "copies of them" in str(moving) and "copies of them" not in str(still)
    assert moving.stays == still.stays == 2 * workspaces(DEVICES["h200"]).stays > 0
    assert lt.plan(model, x, device="cpu").copies == 0
