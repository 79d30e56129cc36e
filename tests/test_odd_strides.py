"""Library calls on operands that lie in memory as few do: read where they lie, or copied."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lazytorch as lt

OUT = 300
BIASES: dict[str, Callable[[], torch.Tensor]] = {
    "every second": lambda: torch.randn(2 * OUT)[::2],
    "one for all": lambda: torch.randn(1).expand(OUT),
    "a column": lambda: torch.randn(OUT, 3)[:, 1],
}
Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
CALLS: dict[str, tuple[Call, tuple[int, ...], tuple[int, ...]]] = {
    "linear": (F.linear, (256, 256), (OUT, 256)),
    "linear and relu": (lambda x, w, b: F.linear(x, w, b).relu(), (256, 256), (OUT, 256)),
    "addmm": (lambda x, w, b: torch.addmm(b, x, w.t()), (256, 256), (OUT, 256)),
    "1x1": (F.conv2d, (2, 16, 9, 9), (OUT, 16, 1, 1)),
    "3x3": (F.conv2d, (2, 16, 9, 9), (OUT, 16, 3, 3)),
    "3x3 and silu": (lambda x, w, b: F.silu(F.conv2d(x, w, b)), (2, 16, 9, 9), (OUT, 16, 3, 3)),
    "3x3 and sum": (lambda x, w, b: F.conv2d(x, w, b) + x.sum(), (2, 16, 9, 9), (OUT, 16, 3, 3)),
}


class Layer(nn.Module):
    """A call whose weight and bias are the module's."""

    def __init__(self, call: Call, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.call = call
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x, self.weight, self.bias)


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("name", CALLS)
def test_results_are_eagers(name: str, bias: str, freeze: bool) -> None:
    torch.manual_seed(0)
    call, size, shape = CALLS[name]
    x, w, b = torch.randn(size), torch.randn(shape), BIASES[bias]()
    with torch.no_grad():
        want = call(x, w, b)
        given = lt.compile(call, freeze=freeze, wait=True)
        kept = lt.compile(Layer(call, w, b), freeze=freeze, wait=True)
        for _ in range(2):
            torch.testing.assert_close(given(x, w, b), want, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(kept(x), want, rtol=1e-4, atol=1e-4)


def test_training_follows_eager() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(OUT, 256) / 16)
            self.table = nn.Parameter(torch.randn(OUT, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.weight, self.table[:, 0])

    x, y = torch.randn(1024, 256), torch.randn(1024, OUT)
    ours, theirs = Net(), Net()
    step = lt.train_step(ours, F.mse_loss, torch.optim.SGD(ours.parameters(), 0.5))
    eager = lt.train_step(theirs, F.mse_loss, torch.optim.SGD(theirs.parameters(), 0.5)).eager
    for _ in range(4):
        torch.testing.assert_close(step(x, y), eager((x, y), {}))
    torch.testing.assert_close(ours.table, theirs.table)


def test_a_grouped_weight_whose_strides_are_open_is_read_right() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 7, 4)
    for shape, order in (((4, 8, 2, 1), None), ((8, 2, 2, 1), (4, 1, 2, 3))):
        w = torch.randn(shape)
        if order is None:
            w = w.to(memory_format=torch.channels_last).transpose(2, 3)
        else:
            w = w.flatten().as_strided(shape, order)
        groups = x.shape[1] // w.shape[1]
        want = F.conv2d(x.double(), w.double(), groups=groups).float()
        for freeze in (False, True):
            layer = Layer(
                lambda x, w, b, n=groups: F.conv2d(x, w, b, groups=n), w, torch.zeros(len(w))
            )
            with torch.no_grad():
                got = lt.compile(layer, freeze=freeze, wait=True)(x)
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_weight_whose_rows_overlap_is_multiplied(freeze: bool) -> None:
    torch.manual_seed(0)
    rows, kernels = torch.randn(600).unfold(0, 256, 1)[:256], torch.randn(40).unfold(0, 16, 1)[:8]
    cases = (
        (F.linear, torch.randn(4, 256), rows),
        (F.conv2d, torch.randn(2, 16, 5, 5), kernels[:, :, None, None]),
    )
    for call, x, w in cases:
        layer = Layer(call, w, torch.randn(len(w)))
        with torch.no_grad():
            got = lt.compile(layer, freeze=freeze, wait=True)(x)
            torch.testing.assert_close(got, layer(x), rtol=1e-4, atol=1e-4)


def test_attention_of_windows_that_overlap() -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 2, 30).unfold(-1, 16, 1)
    k, v = torch.randn(2, 2, 8, 16), torch.randn(2, 2, 8, 16)

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(-2, -1) * 0.25).softmax(-1) @ v

    got = lt.compile(run, wait=True)(q, k, v)
    torch.testing.assert_close(got, run(q, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", [True, False])
def test_the_norm_of_an_empty_batch_has_gradients(weight: bool) -> None:
    x = torch.randn(0, 4, 3, requires_grad=True)
    own = [torch.randn(4, requires_grad=True) for _ in range(2)] if weight else [None, None]

    def run(x: torch.Tensor, w: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor:
        return F.batch_norm(x, None, None, w, b, True)

    leaves = [y for y in (x, *own) if y is not None]
    want = torch.autograd.grad(run(x, *own).sum(), leaves)
    got = torch.autograd.grad(lt.compile(run, wait=True)(x, *own).sum(), leaves)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_pointwise_convolution_lies_as_eagers_whatever_the_threads(
    threads: int, batch: int, stride: int
) -> None:
    """Torch has oneDNN compute it only where one thread is not all there is, or there is more."""
    x = torch.randn(batch, 4, 5, 6, 7).contiguous(memory_format=torch.channels_last_3d)
    w = torch.randn(6, 4, 1, 1, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        want = torch.conv3d(x, w, stride=stride)
        found = lt.compile(lambda x, w: torch.conv3d(x, w, stride=stride), wait=True)(x, w)
    finally:
        torch.set_num_threads(before)
    assert found.stride() == want.stride()
    torch.testing.assert_close(found, want)
