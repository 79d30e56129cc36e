"""Equal call sites of a Triton kernel share one launch; others, and tables, are a site's own."""

from __future__ import annotations

import pytest
import torch

from lazytorch.ir import Builder, Graph, input
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton.binary import interpreting
from lazytorch.ops.elementary import Exp
from lazytorch.ops.fused import Fused
from lazytorch.types import TensorType, tensor_type

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and not interpreting(), reason="needs a GPU or Triton's interpreter"
)


def group(typed: TensorType) -> Fused:
    x = input("x", typed)
    return Fused(Graph((x,), (Builder()(Exp(), x),)))


def test_equal_call_sites_share_a_launch_and_others_do_not() -> None:
    target = TritonTarget()
    device = torch.device(DEVICE, 0) if DEVICE == "cuda" else torch.device(DEVICE)
    small, large = [tensor_type((n,), torch.float32, device) for n in (5, 7)]
    sites = [(group(x), (x,)) for x in (small, small, large)]
    kernels = [target.prepare(op, operands) for op, operands in sites]
    assert len({x.name for x in kernels}) == 1
    target.build(kernels)
    one, same, other = [
        target.launcher(kernel, op, operands)
        for kernel, (op, operands) in zip(kernels, sites, strict=True)
    ]
    assert one is same and one is not other
    into = target.launcher(kernels[0], *sites[0], (0,))
    assert into is not one
    for launch, (_, (typed,)) in zip((one, other), sites[1:], strict=True):
        x = torch.randn(typed.shape, device=device)
        found = launch(x)
        assert isinstance(found, torch.Tensor)
        torch.testing.assert_close(found, x.exp())
        assert found is not launch(x), "memory of its own"
    x, y = torch.randn(5, device=device), torch.zeros(5, device=device)
    into(x, y)
    torch.testing.assert_close(y, x.exp())
