"""C++ kernels for convolutions of each channel, or of single pixels, and what is around them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.ir import Builder, Graph, input
from lazytorch.lower.cpp.kernel import CppTarget
from lazytorch.ops import pixel_products
from lazytorch.ops.activation import Relu
from lazytorch.ops.depthwise import DepthwiseConvolution
from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import Add, Mul
from lazytorch.types import TensorType, tensor_type


class Net(nn.Module):
    """One convolution of each channel, and what follows."""

    def __init__(self, channels: int, after: Callable[..., torch.Tensor], *args: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, *args, groups=channels)
        self.after = after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.conv(x), x)


def compared(net: nn.Module, x: torch.Tensor) -> str:
    """Check a net against eager and float64; the program's text."""
    compiled = lt.compile(net, wait=True, freeze=True)
    with torch.no_grad():
        found, eager = compiled(x), net(x)
        true = net.double()(x.double())
    net.to(x.dtype)
    assert found.stride() == eager.stride() and found.dtype == eager.dtype
    step = torch.finfo(x.dtype).eps * true.abs().max()
    assert (found - true).abs().max() <= 2 * (eager - true).abs().max() + step
    return compiled.source().split("static void")[0]


SIZES = [
    # channels, kernel, stride, padding, dilation, image
    (16, 3, 1, 1, 1, (2, 20, 20)),
    (24, 3, 2, 1, 1, (1, 21, 19)),
    (72, 5, 1, 2, 1, (2, 9, 7)),
    (7, 5, 1, 2, 1, (2, 9, 7)),
    (20, (3, 5), (1, 2), (0, 2), (1, 1), (2, 9, 3)),
    (40, 3, 1, 2, 2, (2, 9, 33)),
    (20, 3, (2, 3), (2, 3), (2, 3), (1, 12, 40)),
    (960, 5, 1, 2, 1, (1, 7, 7)),
    (64, 7, 1, 3, 1, (1, 16, 16)),
    (33, 3, 3, 0, 1, (1, 5, 5)),
    (130, 3, 1, 1, 1, (1, 3, 2)),
    (16, 4, 1, 3, 1, (1, 1, 1)),
    (17, 1, 1, 0, 1, (3, 4, 5)),
    (48, (1, 9), 1, (0, 4), 1, (1, 4, 50)),
]

AFTER: dict[str, Callable[..., torch.Tensor]] = {
    "nothing": lambda y, x: y,
    "relu": lambda y, x: functional.relu(y),
    "hardswish of a half": lambda y, x: functional.hardswish(y * 0.5) + 1,
    "exact gelu": lambda y, x: functional.gelu(y),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_is_as_exact_as_eager(size: tuple[Any, ...], after: str, dtype: torch.dtype) -> None:
    channels, *sizes, (images, height, width) = size
    net = Net(channels, AFTER[after], *sizes).eval().to(dtype)
    x = torch.randn(images, channels, height, width).to(dtype)
    assert "_depthwise_convolution" in compared(
        net, x.contiguous(memory_format=torch.channels_last)
    )


def channel(y: torch.Tensor) -> torch.Tensor:
    return torch.linspace(-1, 1, y.shape[1], dtype=y.dtype)[:, None, None]


AROUND: dict[str, Callable[..., torch.Tensor]] = {
    "the image": lambda y, x: functional.relu(y) + x,
    "a number for each channel": lambda y, x: functional.relu(y) * channel(y) + 0.5,
    "a number for each place": lambda y, x: (y + x[:, :1]).tanh() * x[:, 3:4],
    "the image row by row": lambda y, x: y * x.contiguous().exp(),
    "the image's mean": lambda y, x: functional.silu(y) * x.mean((2, 3), keepdim=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("size", [(2, 24, 11, 9), (1, 192, 5, 3), (1, 6, 4, 4)], ids=str)
def test_what_is_around_is_read_where_it_lies(
    size: tuple[int, ...], around: str, last: bool, dtype: torch.dtype
) -> None:
    net = Net(size[1], AROUND[around], 3, 1, 1).eval().to(dtype)
    x = torch.randn(size).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    assert "_depthwise_convolution" in compared(net, x)


PIXELS = [
    # channels in and out, image
    (16, 64, (1, 12, 12)),
    (64, 24, (1, 7, 7)),
    (24, 72, (2, 20, 17)),
    (40, 40, (3, 9, 5)),
    (3, 7, (1, 5, 4)),
    (17, 33, (1, 3, 5)),
    (160, 960, (1, 7, 7)),
    (512, 48, (1, 8, 8)),
    (1024, 33, (2, 5, 3)),
    (8, 1, (1, 10, 10)),
    (1, 16, (2, 40, 30)),
]

pixels = pytest.mark.skipif(not pixel_products.wide(), reason="kernels are for AVX-512")


class Pixels(nn.Module):
    """One convolution of single pixels, and what follows."""

    def __init__(
        self, into: int, out: int, after: Callable[..., torch.Tensor], bias: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, 1, bias=bias)
        self.after = after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.conv(x), x)


@pixels
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("size", PIXELS, ids=str)
def test_pixels_are_as_exact_as_in_eager(size: tuple[Any, ...], after: str, bias: bool) -> None:
    into, out, (images, height, width) = size
    net = Pixels(into, out, AFTER[after], bias).eval()
    x = torch.randn(images, into, height, width).contiguous(memory_format=torch.channels_last)
    assert "_pixel_products" in compared(net, x)


@pixels
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("size", [(2, 24, 11, 9), (1, 192, 5, 3), (1, 64, 30, 31)], ids=str)
def test_what_is_around_pixels_is_read_where_it_lies(
    size: tuple[int, ...], around: str, last: bool
) -> None:
    net = Pixels(size[1], size[1], AROUND[around]).eval()
    x = torch.randn(size)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    assert "_pixel_products" in compared(net, x)


class Residual(nn.Module):
    """Two products whose sum is one kernel's, of inputs that are moved apart, and a convolution of
    each channel between them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(24, 512, 1)
        self.own = nn.Conv2d(512, 512, 3, padding=1, groups=512)
        self.narrow = nn.Conv2d(512, 40, 1)
        self.short = nn.Conv2d(24, 40, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.own(functional.relu6(self.wide(x))).relu()
        return functional.gelu(self.narrow(y) * 2 + self.short(x))


@pixels
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_sums_of_two_products_have_buffers_of_their_own(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        source = compared(Residual().eval(), torch.randn(2, 24, 13, 11))
    finally:
        torch.set_num_threads(before)
    calls = [x for x in source.splitlines() if ".call(" in x]
    assert sum("pixel_products" in x for x in calls) == 2
    assert sum("depthwise_convolution" in x for x in calls) == 1


class Two(nn.Module):
    """Two convolutions of one image, whose sum is one kernel's, behind one that both read."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.left = nn.Conv2d(24, 24, 3, stride, 1, groups=24)
        self.right = nn.Conv2d(24, 24, 5, stride, 2, groups=24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(x))
        return functional.relu(self.left(x)) + self.right(x) * 2


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_several_convolutions_have_buffers_of_their_own(stride: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        source = compared(Two(stride).eval(), torch.randn(2, 24, 40, 37))
    finally:
        torch.set_num_threads(before)
    assert source.count("_depthwise_convolution") == 2


def test_infinite_taps_do_not_meet_what_is_outside_the_image() -> None:
    net = Net(16, AFTER["nothing"], 3, 1, 1).eval()
    with torch.no_grad():
        net.conv.weight[3, 0, 0, 0] = float("inf")
        net.conv.weight[5] = float("nan")
    x = torch.rand(1, 16, 9, 9) + 1
    x[0, 7, 4, 4] = float("-inf")
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        found, want = lt.compile(net, wait=True, freeze=True)(x), net(x)
    torch.testing.assert_close(found, want, equal_nan=True, rtol=1e-4, atol=1e-5)


def test_a_kernel_may_store_sums_and_what_follows() -> None:
    typed = TensorType((1, 32, 6, 5), torch.float32, torch.device("cpu"), (960, 1, 160, 32))
    image, taps = input("a0", typed), input("a1", tensor_type((3, 3, 32), torch.float32))
    b = Builder()
    sums = b(DepthwiseConvolution((1, 1), (1, 1), (1, 1)), image, taps)
    op = Fused(Graph((image, taps), (b(Relu(), b(Mul(), sums, -1.0)), sums, b(Add(), sums, image))))
    target = CppTarget()
    kernel = target.prepare(op, (typed, tensor_type((3, 3, 32), torch.float32)))
    target.build([kernel])
    launch = target.launcher(kernel, op, (typed, tensor_type((3, 3, 32), torch.float32)))
    x = torch.randn(1, 32, 6, 5).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(3, 3, 32)
    for one, other in zip(launch(x, weight), op.run(x, weight), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert one.stride() == other.stride()


@pixels
@pytest.mark.parametrize("with_pixels", [True, False])
@pytest.mark.parametrize(
    "after",
    [
        lambda y, x: y.relu().softmax(-1),
        lambda y, x: functional.layer_norm(y, (9,)),
        lambda y, x: torch.where(y > 0, y * 2, x),
        lambda y, x: y.double() * 2,
    ],
)
def test_what_no_kernel_around_it_holds_leaves_a_convolution_alone(
    after: Callable[..., torch.Tensor], with_pixels: bool
) -> None:
    net = (Pixels(24, 24, after) if with_pixels else Net(24, after, 3, 1, 1)).eval()
    x = torch.randn(1, 24, 9, 9).contiguous(memory_format=torch.channels_last)
    assert "fused(" not in compared(net, x)
