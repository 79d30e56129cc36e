"""`weight_patches`: gradients of large weights on small images."""

# ruff: noqa: E501  golden text is as wide as it is

import pytest
import torch
from check import Check, assert_same_values

import lazytorch as lt
from lazytorch.ops.aten import Aten
from lazytorch.ops.linalg import Mm
from lazytorch.passes import weight_patches
from lazytorch.text import parse


def derivative(
    image: str = "[2, 256, 3, 2]",
    weight: str = "[512, 256, 3, 3]",
    result: str = "[2, 512, 3, 2]",
    sizes: str = "(1, 1), (1, 1), (1, 1), False, (0, 0), 1",
    mask: str = "True, True, False",
    wanted: str = "%0, %1",
    dtype: str = "f32",
) -> str:
    return f"""
        graph(%g: {dtype}{result}, %x: {dtype}{image}, %w: {dtype}{weight}) {{
          %r = aten{{overload="aten.convolution_backward.default", args=($0, $1, $2, (512,), {sizes}, ({mask}))}} %g %x %w
          %0 = item{{index=0}} %r
          %1 = item{{index=1}} %r
          %2 = item{{index=2}} %r
          return {wanted}
        }}"""


def test_the_gradient_is_a_product_with_patches(check: Check) -> None:
    check(
        weight_patches,
        derivative(),
        """
        graph(%g: f32[2, 512, 3, 2], %x: f32[2, 256, 3, 2], %w: f32[512, 256, 3, 3]) {
          %0: (f32[2, 256, 3, 2], opaque[0], opaque[0]) = aten{overload="aten.convolution_backward.default", args=($0, $1, $2, (512,), (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (True, False, False))} %g %x %w
          %1: f32[2, 256, 3, 2] = item{index=0} %0
          %2: f32[512, 3, 2, 2]{6, 2, 1, 3072} = permute{perm=(1, 2, 3, 0)} %g
          %3: f32[512, 12] = reshape{shape=(512, 12)} %2
          %4: f32[256, 3, 2, 2]{6, 2, 1, 1536} = permute{perm=(1, 2, 3, 0)} %x
          %5: f32[256, 3, 2, 2] = clone{strides=(12, 4, 2, 1)} %4
          %6: f32[256, 5, 4, 2] = pad{pad=(0, 0, 1, 1, 1, 1)} %5
          %7: f32[256, 3, 4, 2, 3]{40, 8, 2, 1, 8} = unfold{dim=1, size=3, step=1} %6
          %8: f32[256, 3, 2, 2, 3, 3]{40, 8, 2, 1, 8, 2} = unfold{dim=2, size=3, step=1} %7
          %9: f32[256, 3, 3, 3, 2, 2]{40, 8, 2, 8, 2, 1} = permute{perm=(0, 4, 5, 1, 2, 3)} %8
          %10: f32[2304, 12] = reshape{shape=(2304, 12)} %9
          %11: f32[12, 2304]{1, 12} = permute{perm=(1, 0)} %10
          %12: f32[512, 2304] = mm %3 %11
          %13: f32[512, 256, 3, 3] = reshape{shape=(512, 256, 3, 3)} %12
          return %1, %13
        }
        """,
        close=1e-5,
    )


@pytest.mark.parametrize(
    "text",
    [
        derivative(image="[2, 256, 3, 5]", weight="[700, 256, 3, 2]", result="[2, 700, 2, 3]", sizes="(2, 3), (1, 2), (1, 1), False, (0, 0), 1"),
        derivative(image="[2, 128, 4, 5]", weight="[700, 128, 3, 4]", result="[2, 700, 2, 2]", sizes="(1,), (0,), (1,), False, (0,), 1"),
        derivative(image="[1, 512, 3, 5]", weight="[700, 512, 3, 1]", result="[1, 700, 2, 2]", sizes="(2, 3), (1, 0), (1, 1), False, (0, 0), 1"),
        derivative(mask="False, True, False", wanted="%1"),
        derivative(mask="True, True, True", wanted="%2, %1, %0"),
        derivative(image="[2, 256, 3, 2]{4000, 12, 4, 2}", result="[2, 512, 3, 2]{6, 12, 1, 3}"),
    ],
)  # fmt: skip
def test_other_sizes_steps_masks_and_strides(text: str) -> None:
    before = parse(text)
    after = weight_patches(before)
    assert any(isinstance(x.op, Mm) for x in after)
    assert weight_patches(after) is after
    assert_same_values(before, after, close=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        derivative(mask="True, False, False", wanted="%0"),
        derivative(weight="[400, 256, 3, 3]", result="[2, 400, 3, 2]"),  # the weight is not large
        derivative(image="[17, 256, 4, 4]", result="[17, 512, 4, 4]"),  # the image is not small
        derivative(image="[1, 1024, 1, 1]", weight="[1024, 1024, 1, 1]", result="[1, 1024, 1, 1]", sizes="(1, 1), (0, 0), (1, 1), False, (0, 0), 1"),
        derivative(sizes="(1, 1), (2, 2), (2, 2), False, (0, 0), 1"),
        derivative(image="[1, 1024, 1, 1]", weight="[1024, 256, 3, 3]", result="[1, 1024, 1, 1]", sizes="(1, 1), (1, 1), (1, 1), False, (0, 0), 4"),
        derivative(weight="[256, 512, 3, 3]", sizes="(1, 1), (1, 1), (1, 1), True, (0, 0), 1"),
        derivative(image="[2, 256, 3, 2]{1536, 1, 512, 256}", result="[2, 512, 3, 2]{3072, 1, 1024, 512}"),
        derivative(weight="[512, 256, 3, 3]{2304, 1, 768, 256}"),
        derivative(dtype="f64"),
    ],
)  # fmt: skip
def test_declines(check: Check, text: str) -> None:
    check.declines(weight_patches, text)


@pytest.mark.parametrize("bias", [False, True])
def test_training_is_eagers(bias: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = [torch.nn.Conv2d(300, 400, 3, padding=1, bias=bias) for _ in range(2)]
    theirs.load_state_dict(ours.state_dict())
    optimizers = [torch.optim.SGD(x.parameters(), 0.1) for x in (ours, theirs)]
    step = lt.train_step(ours, torch.nn.functional.mse_loss, optimizers[0])
    for _ in range(3):
        x, y = torch.randn(3, 300, 2, 3), torch.randn(3, 400, 2, 3)
        loss = torch.nn.functional.mse_loss(theirs(x), y)
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        torch.testing.assert_close(step(x, y), loss)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    (stage,) = step.compiled.programs()
    left = [x for x in stage.optimized if isinstance(x.op, Aten)]
    assert len(left) == bias and any(isinstance(x.op, Mm) for x in stage.optimized)
