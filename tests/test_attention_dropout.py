"""Attention that drops weights: on the CPU torch writes the scores out, and so is it recorded."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.forecast import standing
from lazytorch.frontend import trees
from lazytorch.frontend.record import record
from lazytorch.frontend.stand_in import StandIns
from lazytorch.ir import Graph
from lazytorch.ops.attention import RandomScaledDotProductAttention
from lazytorch.ops.attention_backward import AttentionSaving
from lazytorch.ops.attention_random import RandomAttentionBackward, RandomAttentionSaving
from lazytorch.report import Report
from lazytorch.runtime.cudagraph import Replayer
from lazytorch.types import TensorType

aten = torch.ops.aten

Q, K = (2, 3, 5, 8), (2, 3, 7, 8)

CASES: dict[str, Callable[[torch.dtype], tuple[list[torch.Tensor], dict[str, Any]]]] = {
    "plain": lambda t: ([rand(Q, t), rand(K, t), rand(K, t)], {}),
    "strided": lambda t: (
        [rand((2, 5, 3, 8), t).transpose(1, 2), rand(K, t), rand((2, 3, 8, 7), t).mT],
        {},
    ),
    "causal": lambda t: ([rand(Q, t), rand(K, t), rand(K, t)], {"is_causal": True, "scale": 0.3}),
    "added mask": lambda t: ([rand(Q, t), rand(K, t), rand(K, t), rand((5, 7), t)], {}),
    "true mask": lambda t: ([rand(Q, t), rand(K, t), rand(K, t), torch.ones(5, 7).tril() > 0], {}),
    "row without keys": lambda t: (
        [rand(Q, t), rand(K, t), rand(K, t), torch.ones(5, 7).tril(-1) > 0],
        {},
    ),
    "groups": lambda t: (
        [rand((2, 4, 5, 8), t), rand((2, 2, 7, 8), t), rand((2, 2, 7, 8), t)],
        {"enable_gqa": True},
    ),
    "three dimensions": lambda t: (
        [rand((2, 5, 8), t), rand((2, 7, 8), t), rand((2, 7, 4), t)],
        {},
    ),
}


def rand(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", list(CASES))
def test_the_same_weights_are_dropped_and_the_derivative_knows_them(
    name: str, dtype: torch.dtype
) -> None:
    Report.events.clear()
    torch.manual_seed(0)
    operands, settings = CASES[name](dtype)

    def attention(*xs: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(*xs, dropout_p=0.4, **settings)

    fast = lt.compile(attention, wait=True)
    near = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    for i in range(2):
        found: list[Any] = []
        for f in (fast, attention):
            leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in operands]
            torch.manual_seed(i)
            y = f(*leaves)
            y.float().square().sum().backward()
            found.append([y.detach(), *[x.grad for x in leaves]])
        torch.testing.assert_close(found[0], found[1], rtol=near, atol=near)
    assert [e for e in Report.events if e.kind == "backward"] == []


def test_nothing_is_written_out_without_dropout_or_off_the_cpu() -> None:
    q = torch.randn(Q)
    plain = lt.trace(functional.scaled_dot_product_attention, q, q, q)
    assert "= scaled_dot_product_attention" in str(plain)
    dropped = lt.trace(lambda x: functional.scaled_dot_product_attention(x, x, x, None, 0.4), q)
    assert "scaled_dot_product_attention" not in str(dropped)
    assert "bernoulli" in str(dropped)
    meta = torch.empty(Q, device="meta")
    kept = lt.trace(lambda x: functional.scaled_dot_product_attention(x, x, x, None, 0.4), meta)
    assert any(isinstance(n.op, RandomScaledDotProductAttention) for n in kept.nodes)


def test_the_saving_form_drops_what_its_derivative_knows() -> None:
    """Written out on the CPU: its weights against torch's own derivative of the same weights."""
    torch.manual_seed(0)
    for causal, mask in ((False, False), (True, False), (False, True)):
        op = RandomAttentionSaving("cpu", 0.4, causal, 0.3)
        xs = [rand(s, torch.float64).requires_grad_() for s in (Q, Q, Q)]
        more = [rand((2, 3, 5, 5), torch.float64).requires_grad_()] if mask else []
        out, sums, seed, offset = op.run(*xs, *more)
        g = rand(Q, torch.float64)
        want = torch.autograd.grad(out, [*xs, *more], g)
        dropped = op.run(torch.zeros(Q), torch.zeros(Q), torch.ones(Q))[0]
        assert not torch.equal(dropped, dropped.round()), "nothing was dropped"
        back = RandomAttentionBackward("cpu", 0.4, causal, 0.3, mask)
        found = back.run(g, *[x.detach() for x in (*xs, out, sums, seed, offset, *more)])
        assert len(found) == len(want)
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b)


def stand_ins(function: Callable[..., Any], *shapes: tuple[int, ...], dtype: torch.dtype) -> Graph:
    """What is recorded on a GPU that is not here."""
    made = StandIns(torch.device("cuda", 0))
    args = made.tree(tuple([torch.randn(s, dtype=dtype) for s in shapes]))
    with standing(made, None):
        leaves, spec = trees.flatten((args, {}))
        return record(function, leaves, spec, fullgraph=True).piece.graph


def gradients(drop: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """The function with its derivatives."""
    return lambda *xs: lt.vjp(drop, *xs)[1](torch.ones_like(xs[0]))


SIZES = [(2, 3, 32, 16)] * 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch chooses by the GPU that is here")
@pytest.mark.parametrize(
    ("dtype", "kernel"), [(torch.bfloat16, "flash"), (torch.float32, "efficient")]
)
def test_on_a_gpu_forward_and_backward_draw_once(dtype: torch.dtype, kernel: str) -> None:
    def drop(*xs: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(*xs, dropout_p=0.1)

    graph = stand_ins(gradients(drop), *SIZES, dtype=dtype)
    drawn = [n.op for n in graph.nodes if isinstance(n.op, RandomAttentionSaving)]
    back = [n.op for n in graph.nodes if isinstance(n.op, RandomAttentionBackward)]
    assert drawn == [RandomAttentionSaving(kernel, 0.1)]
    assert back == [RandomAttentionBackward(kernel, 0.1)]


CHOICES: dict[str, Callable[..., torch.Tensor]] = {
    "flash": lambda *xs: aten._scaled_dot_product_flash_attention(*xs, 0.2, True)[0],
    "efficient": lambda *xs: aten._scaled_dot_product_efficient_attention(
        *xs, None, True, 0.2, True
    )[0],
    "cudnn": lambda *xs: aten._scaled_dot_product_cudnn_attention(*xs, None, True, 0.2, True)[0],
}


@pytest.mark.parametrize("kernel", list(CHOICES))
def test_the_kernels_that_torch_chooses_are_recorded(kernel: str) -> None:
    graph = stand_ins(gradients(CHOICES[kernel]), *SIZES, dtype=torch.bfloat16)
    found = [n.op for n in graph.nodes if "random_attention" in n.op.name()]
    assert found == [
        RandomAttentionSaving(kernel, 0.2, True),
        RandomAttentionBackward(kernel, 0.2, True),
    ]


def test_heads_that_share_a_key_hold_no_scores_on_a_gpu() -> None:
    def grouped(*xs: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(*xs, is_causal=True, enable_gqa=True)

    shapes = [(2, 6, 32, 16), (2, 2, 32, 16), (2, 2, 32, 16)]
    graph = stand_ins(gradients(grouped), *shapes, dtype=torch.bfloat16)
    assert [n.op for n in graph.nodes if isinstance(n.op, AttentionSaving)] == [
        AttentionSaving("flash", True)
    ]
    assert "softmax" not in str(graph)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch chooses by the GPU that is here")
def test_scores_are_written_out_where_a_mask_is_differentiated() -> None:
    def drop(*xs: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(*xs, dropout_p=0.1)

    graph = stand_ins(gradients(drop), *SIZES, (2, 3, 32, 32), dtype=torch.float32)
    assert "random_attention" not in str(graph) and "softmax" in str(graph)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch chooses by the GPU that is here")
def test_a_mask_of_bools_is_handed_on_as_numbers_for_every_score() -> None:
    def drop(*xs: torch.Tensor) -> torch.Tensor:
        mask = xs[3][:, :1] > 0
        return functional.scaled_dot_product_attention(*xs[:3], mask, dropout_p=0.1)

    graph = stand_ins(drop, *SIZES, (2, 3, 32, 32), dtype=torch.float32)
    (drawn,) = [n for n in graph.nodes if isinstance(n.op, RandomAttentionSaving)]
    mask = drawn.inputs[3].type
    assert isinstance(mask, TensorType) and mask.dtype is torch.float32
    assert mask.shape == (2, 3, 32, 32) and mask.strides == (1024, 0, 32, 1)


def test_a_mask_has_a_cotangent_where_one_is_asked_for() -> None:
    def drop(*xs: torch.Tensor) -> torch.Tensor:
        return aten._scaled_dot_product_efficient_attention(*xs, True, 0.1)[0]

    shapes = [*SIZES, (2, 3, 32, 32)]
    graph = stand_ins(gradients(drop), *shapes, dtype=torch.float32)
    back = [n.op.by_mask for n in graph.nodes if isinstance(n.op, RandomAttentionBackward)]
    assert sorted(back) == [False, True]
    whole = stand_ins(lambda *xs: gradients(drop)(*xs)[:3], *shapes, dtype=torch.float32)
    back = [n.op.by_mask for n in whole.nodes if isinstance(n.op, RandomAttentionBackward)]
    assert back == [False]


def test_what_no_kernel_drops_is_left_whole() -> None:
    def drop(*xs: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(*xs, dropout_p=0.1)

    graph = stand_ins(drop, *[(2, 3, 32, 15)] * 3, dtype=torch.float32)
    assert "random_attention" not in str(graph)
    plain = stand_ins(
        lambda *xs: aten._scaled_dot_product_efficient_attention(*xs, None, True)[0],
        *SIZES, dtype=torch.float32,
    )  # fmt: skip
    assert "random_attention" not in str(plain)


def shown_all(x: torch.Tensor) -> torch.Tensor:
    """What libraries make of a batch without padding where they may not look at values."""
    return torch.ones(2, 1, 1, 1, dtype=torch.bool, device=x.device).expand(2, 1, 32, 32)


def up_to_each(x: torch.Tensor) -> torch.Tensor:
    places = torch.arange(32, device=x.device)
    return (places[None] <= places[:, None])[None, None]


def hidden_first(x: torch.Tensor) -> torch.Tensor:
    return (torch.arange(32, device=x.device) > 0)[None, None, None]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch chooses by the GPU that is here")
@pytest.mark.parametrize(
    ("mask", "kernel", "causal"),
    [
        (shown_all, "flash", False),
        (up_to_each, "flash", True),
        (lambda x: up_to_each(x)[0, 0].to(x.dtype).log(), "flash", True),
        (hidden_first, "efficient", False),
        (lambda x: (x[:1, :1, :, 0] > 0)[:, :, None], "efficient", False),
    ],
    ids=["hides nothing", "causal", "causal, added", "another", "by values"],
)
def test_a_mask_that_kernels_know_is_left_out_where_weights_are_dropped(
    mask: Callable[[torch.Tensor], torch.Tensor], kernel: str, causal: bool
) -> None:
    def drop(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        attend = functional.scaled_dot_product_attention
        return attend(q, k, v, attn_mask=mask(q), dropout_p=0.1, scale=0.5)

    graph = stand_ins(gradients(drop), *SIZES, dtype=torch.bfloat16)
    (drawn,) = [n for n in graph.nodes if isinstance(n.op, RandomAttentionSaving)]
    assert (drawn.op.kernel, drawn.op.is_causal, drawn.op.scale) == (kernel, causal, 0.5)
    assert len(drawn.inputs) == (4 if kernel == "efficient" else 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch chooses by the GPU that is here")
def test_a_causal_mask_stays_where_keys_and_queries_differ_in_number() -> None:
    def drop(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        mask = up_to_each(q)[..., :16, :]
        return functional.scaled_dot_product_attention(q, k, k, mask, 0.1)

    graph = stand_ins(drop, (2, 3, 16, 16), (2, 3, 32, 16), dtype=torch.bfloat16)
    (drawn,) = [n for n in graph.nodes if isinstance(n.op, RandomAttentionSaving)]
    assert not drawn.op.is_causal and len(drawn.inputs) == 4


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPES_ON_GPU = [(2, 3, 64, 16), (1, 4, 33, 40), (2, 2, 128, 64)]


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES_ON_GPU, ids=str)
@pytest.mark.parametrize("mask", ["none", "fixed", "learned"])
def test_a_gpu_drops_what_eager_drops(
    shape: tuple[int, ...], dtype: torch.dtype, mask: str
) -> None:
    """Torch's kernel for a mask depends on whether the mask requires a gradient."""
    Report.events.clear()
    size = shape[:3] + shape[2:3]
    masks = [torch.randn(size, dtype=dtype, device="cuda", requires_grad=mask == "learned")]
    masks = [] if mask == "none" else masks

    def attention(*xs: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(*xs, dropout_p=0.4, is_causal=not masks)

    fast = lt.compile(attention, wait=True)
    near = 1e-5 if dtype is torch.float32 else 3e-2
    given = [torch.randn(shape, dtype=dtype, device="cuda", requires_grad=True) for _ in range(3)]
    for seed in range(4):
        found: list[Any] = []
        for f in (fast, attention):
            torch.manual_seed(seed)
            y = f(*given, *masks)
            learned = [x for x in (*given, *masks) if x.requires_grad]
            found.append([y, *torch.autograd.grad(y.float().square().sum(), learned)])
        torch.testing.assert_close(found[0], found[1], rtol=near, atol=near)
    assert [e for e in Report.events if e.kind == "backward"] == []


@gpu
@pytest.mark.parametrize(
    ("mask", "causal"), [(shown_all, False), (up_to_each, True)], ids=["hides nothing", "causal"]
)
def test_a_gpu_drops_as_without_a_mask_that_kernels_know(
    mask: Callable[[torch.Tensor], torch.Tensor], causal: bool
) -> None:
    xs = [torch.randn(2, 3, 32, 64, dtype=torch.bfloat16, device="cuda") for _ in range(3)]
    attend = functional.scaled_dot_product_attention
    fast = lt.compile(lambda *xs: attend(*xs, mask(xs[0]), 0.4), wait=True)
    for seed in range(4):
        torch.manual_seed(seed)
        found = fast(*xs)
        torch.manual_seed(seed)
        torch.testing.assert_close(found, attend(*xs, None, 0.4, causal), rtol=3e-2, atol=3e-2)


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_captured_training_step_drops_what_eager_drops(dtype: torch.dtype) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.Linear(64, 192)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.inner(x).view(4, 32, 3, 4, 16).permute(2, 0, 3, 1, 4)
            return functional.scaled_dot_product_attention(q, k, v, dropout_p=0.2).sum()

    Report.events.clear()
    ours, theirs = Block().cuda(), Block().cuda()
    opts = [torch.optim.SGD(m.parameters(), 1e-4) for m in (ours, theirs)]
    amp = dtype if dtype is torch.bfloat16 else None
    step = lt.train_step(ours, None, opts[0], amp=amp, wait=True)
    for i in range(6):
        x = torch.randn(4, 32, 64, device="cuda")
        torch.manual_seed(i)
        loss = step(x)
        torch.manual_seed(i)
        opts[1].zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=amp is not None):
            want = theirs(x)
        want.backward()
        opts[1].step()
        torch.testing.assert_close(loss, want.detach(), rtol=2e-2, atol=1e-2)
    torch.testing.assert_close(ours.inner.weight, theirs.inner.weight, rtol=1e-3, atol=1e-4)
    assert [e for e in Report.events if e.kind == "backward"] == []
    replay = step.compiled.programs()[-1].replay
    assert isinstance(replay, Replayer)
    assert replay.captured is not None, replay.why
