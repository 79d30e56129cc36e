"""Derivative rules against torch's autograd: values, second derivatives, which operations have one.

Rules run by the interpreter: no compiler decides here whether they are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from samples import Sample, by_op
from test_ops import ours
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import lazytorch as lt
from lazytorch.autodiff.rules import rule
from lazytorch.autodiff.vjp import carries, vjp
from lazytorch.interpret import interpret
from lazytorch.ir import Builder, Graph, Item, Node, Op, constant, input
from lazytorch.ops.aten import value_type
from lazytorch.ops.calculus import Calculus, is_tensor, tensor
from lazytorch.passes import REWRITES, optimize
from lazytorch.types import TupleType

# One has the history of another value by design; two are refused, since what they dropped nobody
# is told; two are a GPU's kernels, with numbers of their own: tests/test_attention_dropout.py.
APART = {
    *("kept", "random_recurrent", "random_scaled_dot_product_attention"),
    *("random_attention_saving", "random_attention_backward"),
}
SAMPLES = {name: samples for name, samples in by_op().items() if name not in APART}
NEAR = {
    torch.float64: 1e-9,
    torch.float32: 2e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
"""How far rules may be from torch's formulas, in units of the result or of its median."""
ROUNDED = {"hardsigmoid": 1e-7}
"""Where torch's own float64 formula has constants of float32."""
LARGE = 2000
"""Elements of the largest operand of a second derivative."""


def differentiable(x: Any) -> bool:
    """Whether a derivative is taken by an operand."""
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def is_complex(x: Any) -> bool:
    """Whether there are complex numbers in it: those have derived rules only."""
    return isinstance(x, torch.Tensor) and x.is_complex()


def flat(value: Any) -> list[Any]:
    """The results of an operation, one or several."""
    return list(value) if isinstance(value, tuple | list) else [value]


def like(x: torch.Tensor) -> torch.Tensor:
    """A random cotangent."""
    return torch.randn(x.shape, dtype=torch.float64).to(x.dtype)


class Torchs:
    """What torch's engine makes of a sample: `given` are its operands, `results` those that
    derivatives flow through, at `places`; `found` the gradients of the floating operands from
    `seeds`."""

    def __init__(self, sample: Sample, again: bool = False) -> None:
        self.given = [
            x.detach().requires_grad_() if differentiable(x) else x for x in sample.operands
        ]
        torch.manual_seed(0)
        results = flat(sample.reference(*self.given))
        self.places = [
            i for i, y in enumerate(results) if isinstance(y, torch.Tensor) and y.requires_grad
        ]
        self.results = [results[i] for i in self.places]
        self.seeds = [like(y).requires_grad_(again) for y in self.results]
        self.wanted = [x for x in self.given if differentiable(x)]
        self.found: tuple[Any, ...] = ()
        if self.results and self.wanted:
            self.found = torch.autograd.grad(
                self.results, self.wanted, self.seeds, allow_unused=True, create_graph=again
            )


def known(sample: Sample, again: bool = False) -> Torchs | None:
    """The same, None where torch has nothing to compare with."""
    try:
        found = Torchs(sample, again)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    return found if found.found else None


def pulled(op: Op, operands: Sequence[Any], places: Sequence[int]) -> Graph:
    """From the tensors among the operands and the cotangents of the results at `places` to the
    gradients of the floating operands."""
    b = Builder()
    nodes = [
        input(f"x{i}", value_type(x)) if isinstance(x, torch.Tensor) else constant(x)
        for i, x in enumerate(operands)
    ]
    out = b(op, *nodes)
    several = isinstance(out.type, TupleType)
    results = [b(Item(i), out) if several else out for i in places]
    seeds = [row_major(f"g{i}", y) for i, y in enumerate(results)]
    wanted = [n for n, x in zip(nodes, operands, strict=True) if differentiable(x)]
    found = gradients(results, seeds, wanted)
    return Graph((*[n for n in nodes if is_tensor(n)], *seeds), tuple(found))


def row_major(label: str, y: Node) -> Node:
    """A cotangent that the caller gives."""
    return input(label, tensor(y).with_shape(tensor(y).shape))


def gradients(results: Sequence[Node], seeds: Sequence[Node], wanted: Sequence[Node]) -> list[Node]:
    """Cotangents, zeros where nothing flows."""
    found = vjp(results, seeds, wanted, rule)
    s = Calculus()
    return [s.full(x, 0.0) if g is None else g for g, x in zip(found, wanted, strict=True)]


def assert_near(got: torch.Tensor, want: torch.Tensor | None, loose: float = 0.0) -> None:
    """Equal type; values near each other, and the same NaN."""
    want = torch.zeros_like(got) if want is None else want.detach()
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    finite = want[want.isfinite()].double().abs()
    scale = max(float(finite.median()) if finite.numel() else 0.0, 1e-3)
    near = max(NEAR[want.dtype], loose)
    torch.testing.assert_close(got, want, rtol=near, atol=near * scale, equal_nan=True)


def tensors(operands: Sequence[Any]) -> list[torch.Tensor]:
    """The operands that are tensors."""
    return [x.detach() for x in operands if isinstance(x, torch.Tensor)]


def real(name: str) -> list[Sample]:
    """The samples of an operation without complex operands."""
    return [x for x in SAMPLES[name] if not any([is_complex(y) for y in x.operands])]


def described(sample: Sample) -> str:
    """What a failure prints."""
    types = ", ".join([str(value_type(x)) for x in sample.operands])
    return f"{sample.op} {sample.label} of {types}"


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what torch's formulas warn of


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_rule_gives_torchs_numbers(name: str) -> None:
    for sample in real(name):
        theirs = known(sample)
        if theirs is None:
            continue
        try:
            graph = pulled(sample.op, sample.operands, theirs.places)
            torch.manual_seed(0)
            got = interpret(graph, *tensors(sample.operands), *theirs.seeds)
            for one, other in zip(got, theirs.found, strict=True):
                assert_near(one, other, ROUNDED.get(name, 0.0))
        except Exception as error:
            error.add_note(described(sample))
            raise


def doubled(sample: Sample) -> Sample | None:
    """The sample in float64, None where it is another sample then, or too large, or at a kink."""
    floating = [x for x in sample.operands if differentiable(x)]
    fixed = any([isinstance(v, torch.dtype) for _, v in sample.op.attributes()])
    dtypes = {x.dtype for x in floating}
    if not floating or fixed or "special" in sample.label or not dtypes <= {torch.float32}:
        return None
    if max([x.numel() for x in floating]) > LARGE:
        return None
    operands = tuple([x.double() if differentiable(x) else x for x in sample.operands])
    return Sample(sample.op, operands, sample.reference, label=sample.label)


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - {"row_cross_entropy"}))  # made by a pass
def test_second_derivative_is_torchs(name: str) -> None:
    for sample in [y for x in real(name) if (y := doubled(x)) is not None][:12]:
        theirs = known(sample, again=True)
        if theirs is None or sample.op.effect or any([is_complex(y) for y in theirs.results]):
            continue
        moving = [g for g in theirs.found if g is not None and g.requires_grad]
        if not moving:
            continue
        weights = [like(g) for g in moving]
        try:
            want = torch.autograd.grad(
                moving, [*theirs.wanted, *theirs.seeds], weights, allow_unused=True
            )
        except (RuntimeError, NotImplementedError):
            continue  # torch has no second derivative of it
        try:
            graph = pulled(sample.op, sample.operands, theirs.places)
            outputs = [
                y
                for y, g in zip(graph.outputs, theirs.found, strict=True)
                if g is not None and g.requires_grad
            ]
            seeds = [
                input(f"v{i}", tensor(y).with_shape(tensor(y).shape)) for i, y in enumerate(outputs)
            ]
            given = len(tensors(sample.operands))
            by = [x for x in graph.inputs[:given] if carries(x.type)]
            second = gradients(outputs, seeds, [*by, *graph.inputs[given:]])
            values = (*tensors(sample.operands), *[x.detach() for x in theirs.seeds], *weights)
            got = interpret(Graph((*graph.inputs, *seeds), tuple(second)), *values)
            for one, other in zip(got, want, strict=True):
                assert_near(one, other, ROUNDED.get(name, 0.0))
        except Exception as error:
            error.add_note(described(sample))
            raise


DERIVED = {
    *("max_pool", "max_pool_indices", "avg_pool", "adaptive_avg_pool"),
    *("prod", "cumprod"),
    *("attention_backward", "batch_norm_backward", "binary_cross_entropy", "convolution"),
    *("conj", "view_as_real", "view_as_complex", "embedding", "index_select", "bernoulli_of"),
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "random_recurrent", "instance_norm_train"),
    *("random_scaled_dot_product_attention", "random_attention_backward"),
}
"""Operations whose rule is recorded from torch's formula."""
CONSTANT = {
    "counting",
    *("all", "any", "argmax", "argmin", "randperm", "multinomial", "view_dtype", "detach"),
    *("eq", "ge", "gt", "le", "lt", "ne", "isinf", "isnan", "to_number", "arithmetic"),
    *("logical_not", "logical_and", "logical_or", "logical_xor", "bitwise_not", "bitwise_and"),
    *("bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift"),
    *("arange", "eye", "full", "linspace", "literal"),
    *("bernoulli", "exponential", "normal", "random_integer", "uniform"),
}
"""Operations without a derivative: they have no floating operand or no floating result."""
CHOSEN = {
    *(
        "row_cross_entropy",
        "row_dots",
        "depthwise_convolution",
        "pixel_products",
        "checked_classes",
        "attention_saving",
        "max_pool_offsets",
    ),
    *("dropout", "philox_mask", "philox_state"),
}
"""What passes make of operations that were differentiated before, and what rules make."""
LIBRARY = ("library", "cudnn", "cublas")


def test_every_operation_says_how_it_is_differentiated() -> None:
    without = {
        name
        for name, kind in ours().items()
        if kind.vjp is Op.vjp and kind.__module__.rsplit(".", 1)[-1] not in LIBRARY
    }
    inherited = {"cumprod", "random_scaled_dot_product_attention"}
    assert sorted(without | inherited) == sorted(
        DERIVED | CONSTANT | CHOSEN - {"linear_activation"}
    )
    assert not DERIVED & CONSTANT


def test_a_convolution_computes_only_the_cotangents_that_are_asked_for() -> None:
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)

    def by_input(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, weight).square().sum()

    (back,) = [n.op for n in lt.trace(lt.grad(by_input), x).nodes if "convolution_b" in str(n.op)]
    assert (True, False, False) in back.args  # type: ignore[attr-defined]


def block(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """A transformer's block: norms, joined products, attention, gelu."""
    h = functional.layer_norm(x, (16,), p["gain"], p["shift"])
    q, k, v = (h @ p["qkv"]).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + y.transpose(1, 2).flatten(-2)
    return (functional.gelu(functional.linear(x, p["up"])) @ p["up"]).square().mean()


def image(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Convolution, batch norm, pooling, a loss of classes."""
    h = functional.conv2d(x[:, None], p["filter"], padding=1)
    h = functional.batch_norm(h, None, None, p["gain"][:4], p["shift"][:4], training=True)
    h = functional.max_pool2d(h.relu(), 2).flatten(1)
    return functional.cross_entropy(h, torch.arange(h.shape[0]), label_smoothing=0.1)


def parameters(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Small weights."""
    shapes: dict[str, tuple[int, ...]] = {
        "gain": (16,),
        "shift": (16,),
        "qkv": (16, 48),
        "up": (32, 16),
        "filter": (4, 1, 3, 3),
    }
    return {k: torch.randn(shape, dtype=dtype) * 0.3 for k, shape in shapes.items()}


@pytest.mark.parametrize("f", [block, image])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_gradients_are_torchs(f: Any, dtype: torch.dtype) -> None:
    p, x = parameters(dtype), torch.randn(3, 12, 16, dtype=dtype)
    ours = lt.compile(lambda p, x: lt.value_and_grad(f)(p, x), wait=True)(p, x)
    theirs = torch.func.grad_and_value(f)(p, x)
    near = 1e-10 if dtype is torch.float64 else 2e-5
    torch.testing.assert_close(ours, theirs[::-1], rtol=near, atol=near)


def kinds(graph: Graph) -> list[str]:
    """The names of the operations."""
    return [node.op.name() for node in optimize(graph, REWRITES).nodes]


def test_nothing_is_computed_twice_for_the_derivative() -> None:
    p = parameters(torch.float32)
    of_block = kinds(lt.trace(lt.value_and_grad(block), p, torch.randn(3, 12, 16)))
    of_image = kinds(lt.trace(lt.value_and_grad(image), p, torch.randn(3, 12, 16)))
    assert "scaled_dot_product_attention" not in of_block and "pad" not in of_block
    assert "batch_norm_train" not in of_image and "max_pool" not in of_image
    assert of_image.count("batch_norm_saving") == of_image.count("max_pool_indices") == 1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_has_a_second_derivative(causal: bool, masked: bool) -> None:
    if causal and masked:
        pytest.skip("torch refuses both")
    q, k, v = (torch.randn(1, 2, 5, 4, dtype=torch.float64) for _ in range(3))
    mask = torch.randn(5, 5, dtype=torch.float64) if masked else None

    def value(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        y = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        return y.sin().sum()

    def again(grad: Any) -> Any:
        def of(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return sum(x.square().sum() for x in grad(value, (0, 1, 2))(q, k, v))  # type: ignore

        return grad(of, (0, 1, 2))

    ours = lt.compile(lambda *xs: again(lt.grad)(*xs))(q, k, v)
    with sdpa_kernel(SDPBackend.MATH):
        theirs = again(torch.func.grad)(q, k, v)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [False, True])
def test_heads_that_share_a_key_have_first_and_second_derivatives(causal: bool) -> None:
    q = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    k, v = (torch.randn(2, 2, 5, 4, dtype=torch.float64) for _ in range(2))

    def value(*xs: torch.Tensor) -> torch.Tensor:
        y = functional.scaled_dot_product_attention(*xs, is_causal=causal, enable_gqa=True)
        return y.sin().sum()

    def again(grad: Any) -> Any:
        def of(*xs: torch.Tensor) -> torch.Tensor:
            return sum(x.square().sum() for x in grad(value, (0, 1, 2))(*xs))  # type: ignore

        return grad(of, (0, 1, 2))

    assert "attention_backward" in kinds(lt.trace(lt.grad(value, (0, 1, 2)), q, k, v))
    once, twice = lt.grad(value, (0, 1, 2))(q, k, v), again(lt.grad)(q, k, v)
    with sdpa_kernel(SDPBackend.MATH):
        want = torch.func.grad(value, (0, 1, 2))(q, k, v)
        torch.testing.assert_close(once, want, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(twice, again(torch.func.grad)(q, k, v), rtol=1e-9, atol=1e-9)


def test_a_mask_that_is_added_has_a_gradient() -> None:
    q, k, v = (torch.randn(1, 2, 5, 4, dtype=torch.float64) for _ in range(3))

    def value(mask: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, v, mask).sin().sum()

    mask = torch.randn(5, 5, dtype=torch.float64)
    torch.testing.assert_close(lt.grad(value)(mask), torch.func.grad(value)(mask))
