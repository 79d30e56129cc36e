"""`pool_first`: relu of what is left by a max pool, where both give the same."""

# ruff: noqa: E501  golden text is as wide as it is

import pytest
import torch
from check import SPECIAL, Check

from lazytorch.interpret import interpret
from lazytorch.ops.activation import Relu
from lazytorch.passes import pool_first
from lazytorch.text import parse
from lazytorch.types import TensorType

INPUTS = "graph(%x: f32[1, 2, 6, 6], %w: f32[3, 2, 1, 1] state) {"
CONVOLUTION = "%0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w"
POOL = "max_pool{kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1)}"


def test_relu_waits_for_the_pool(check: Check) -> None:
    check(
        pool_first,
        f"{INPUTS} {CONVOLUTION} %1 = relu %0 %2 = {POOL} %1 return %2 }}",
        """
        graph(%x: f32[1, 2, 6, 6], %w: f32[3, 2, 1, 1] state) {
          %0: f32[1, 3, 6, 6] = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
          %1: f32[1, 3, 3, 3] = max_pool{kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1)} %0
          %2: f32[1, 3, 3, 3] = relu %1
          return %2
        }
        """,
    )


@pytest.mark.parametrize(
    "text",
    [
        f"{CONVOLUTION} %1 = relu %0 %2 = {POOL} %1 return %2, %1",
        f"{CONVOLUTION} %1 = relu %0 %2 = {POOL} %1 %3 = exp %1 return %2, %3",
        f"%1 = relu %x %2 = {POOL} %1 return %2",
        f"{CONVOLUTION} %1 = tanh %0 %2 = {POOL} %1 return %2",
        f"{CONVOLUTION} %1 = relu %0 %2 = {POOL.replace('(2, 2)', '(1, 1)')} %1 return %2",
        f"{CONVOLUTION} %1 = relu %0 %2 = {POOL.replace('dilation=(1, 1)', 'dilation=(2, 2)')} %1 return %2",
    ],
    ids=[
        "relu is an output", "relu has another reader", "relu of no convolution", "no relu",
        "the pool makes nothing smaller", "dilated windows may hold no element",
    ],
)  # fmt: skip
def test_pool_first_declines(check: Check, text: str) -> None:
    check.declines(pool_first, f"{INPUTS} {text} }}")


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f64"])
@pytest.mark.parametrize("ceil", ["", ", ceil_mode=True"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3), (2, 2), (1, 1)), ((2, 3), (2, 1), (1, 1)), ((1, 4), (1, 3), (0, 2))],
)
def test_values_stay_the_same(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int],
    ceil: str, dtype: str,
) -> None:  # fmt: skip
    graph = parse(f"""graph(%x: {dtype}[3, 1, 5, 7], %w: {dtype}[1, 1, 1, 1] state) {{
        {CONVOLUTION} %1 = relu %0
        %2 = max_pool{{kernel={kernel}, stride={stride}, padding={padding}, dilation=(1, 1){ceil}}} %1
        return %2 }}""")
    after = pool_first(graph)
    assert isinstance(after.outputs[0].op, Relu)
    torch.manual_seed(0)
    typed = graph.inputs[0].type
    assert isinstance(typed, TensorType)
    x = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), (3, 1, 5, 7))].to(typed.dtype)
    one = torch.ones(1, 1, 1, 1, dtype=typed.dtype)
    (found,), (want,) = interpret(after, x, one), interpret(graph, x, one)
    torch.testing.assert_close(found, want, rtol=0, atol=0, equal_nan=True, check_stride=True)
