"""Attention whose query heads share heads of key and value: a training step runs it once."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import lazytorch as lt
from lazytorch.autodiff.rules import rule
from lazytorch.autodiff.vjp import vjp
from lazytorch.interpret import interpret
from lazytorch.ir import Builder, Graph, input
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.calculus import tensor
from lazytorch.passes import REWRITES, cudnn_attention, optimize
from lazytorch.types import tensor_type


class Grouped(nn.Module):
    """Six heads of the query, two of key and value."""

    def __init__(self, mask: torch.Tensor | None, causal: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.kv = nn.Linear(8, 24).double(), nn.Linear(8, 16).double()
        self.mask, self.causal = mask, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x).unflatten(-1, (6, 4)).transpose(1, 2)
        k, v = (y.unflatten(-1, (2, 4)).transpose(1, 2) for y in self.kv(x).chunk(2, -1))
        y = functional.scaled_dot_product_attention(
            q, k, v, self.mask, is_causal=self.causal, enable_gqa=True
        )
        return y.square().mean()


MASKS: dict[str, tuple[torch.Tensor | None, bool]] = {
    "none": (None, False),
    "causal": (None, True),
    "causal, written out": (torch.ones(5, 5, dtype=torch.bool).tril(), False),
    "added": (torch.arange(25.0, dtype=torch.float64).reshape(5, 5) / 7, False),
}


@pytest.mark.parametrize("name", list(MASKS))
def test_heads_that_share_a_key_attend_once_in_a_training_step(name: str) -> None:
    ours, theirs = Grouped(*MASKS[name]), Grouped(*MASKS[name])
    mine, other = (torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (ours, theirs))
    step = lt.train_step(ours, None, mine)
    for i in range(3):
        x = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        other.zero_grad()
        with sdpa_kernel(SDPBackend.MATH):
            loss = theirs(x)
        loss.backward()
        other.step()
        torch.testing.assert_close(step(x), loss.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))
    graph = optimize(step.compiled.programs()[-1].piece.graph, REWRITES)
    found = [node.op.name() for node in graph.nodes if "attention" in node.op.name()]
    assert sorted(found) == ["attention_backward", "attention_saving"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_on_a_gpu_the_kernel_that_takes_groups_is_shared_and_stays(dtype: torch.dtype) -> None:
    q = input("q", tensor_type((2, 6, 64, 32), dtype, "cuda"))
    k, v = (input(x, tensor_type((2, 2, 64, 32), dtype, "cuda")) for x in "kv")
    out = Builder()(ScaledDotProductAttention(enable_gqa=True), q, k, v)
    seed = input("g", out.type)
    found = [x for x in vjp([out], [seed], [q, k, v], rule) if x is not None]
    if dtype is torch.float64:  # which no kernel takes: it is written out
        graph = Graph((q, k, v, seed), (out, *found))
        given = [torch.randn(tensor(x).shape, dtype=dtype, requires_grad=True) for x in (q, k, v)]
        theirs = functional.scaled_dot_product_attention(*given, enable_gqa=True)
        g = torch.randn(theirs.shape, dtype=dtype)
        wanted = (theirs, *torch.autograd.grad(theirs, given, g))
        got = interpret(graph, *[x.detach() for x in given], g)
        torch.testing.assert_close(tuple(got), wanted)
        return
    graph = optimize(Graph((q, k, v, seed), (out, *found)), REWRITES)
    kernels = [str(x.op) for x in graph.nodes if x.op.name() == "attention_saving"]
    once = dtype is torch.bfloat16  # in float32 the kernel is one that wants groups repeated
    assert len(kernels) == 1
    assert ("scaled_dot_product_attention" in str(graph)) != once
    assert [tensor(x).shape for x in found] == [tensor(x).shape for x in (q, k, v)]
    by_cudnn = str(cudnn_attention(graph, lambda *_: True))
    assert ('kernel="cudnn"' in by_cudnn) == once
