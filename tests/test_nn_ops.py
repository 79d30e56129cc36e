"""Every call of samples_nn, imported and run, against torch: types exactly, values bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from calls import LAYOUTS, Call, Make, call
from samples import assert_same_bits
from samples_calls import imported
from samples_nn import (
    ATTENTION,
    CALLS,
    CONV,
    LINALG,
    LOSS,
    NORM,
    RECURRENT,
    REDUCE,
)

from lazytorch.errors import BoundsError, DTypeError, LazyTorchError, ShapeError
from lazytorch.frontend.imports import IMPORTERS, Written, overload
from lazytorch.interpret import evaluate
from lazytorch.ir import Builder, Graph, Node, input
from lazytorch.ops.aten import value_type
from lazytorch.ops.conv import Convolution
from lazytorch.ops.linalg import Matmul
from lazytorch.ops.reduce import Mean, Softmax, Sum
from lazytorch.types import TensorType, tensor_type

COMBINATIONS = [(torch.float32, layout) for layout in LAYOUTS] + [
    (dtype, layout)
    for dtype in (torch.float64, torch.bfloat16)
    for layout in ("channels_last", "permuted")
]


def copied(value: Any) -> Any:
    """The argument with its tensors copied, storage and strides."""
    if isinstance(value, torch.Tensor):
        return value.new_empty(0).set_(
            value.untyped_storage().clone(), value.storage_offset(), value.shape, value.stride()
        )
    return [copied(v) for v in value] if isinstance(value, list) else value


def listed(value: Any) -> list[Any]:
    """One result or several."""
    return list(value) if isinstance(value, tuple | list) else [value]


def torchs(name: str, given: Call) -> tuple[list[torch.Tensor], list[Any]]:
    """torch's results, and the arguments afterwards; RuntimeError where torch refuses."""
    args = [copied(a) for a in given[0]]
    torch.manual_seed(0)
    try:
        return listed(overload(name)(*args, **given[1])), args
    except (TypeError, ValueError, IndexError) as error:
        raise RuntimeError(str(error)) from error


def ours(name: str, given: Call) -> tuple[list[Node], list[Any], tuple[int, ...]]:
    """Nodes and values of the results and of what is written, and where that is written."""
    inputs: dict[Node, torch.Tensor] = {}
    result = imported(name, given, inputs)
    assert result is not NotImplemented
    nodes = listed(result.results if result.__class__ is Written else result)
    writes = result.writes if result.__class__ is Written else ()
    nodes += [node for _, node in writes]
    torch.manual_seed(0)
    known = evaluate(Graph(tuple(inputs), tuple(nodes)), tuple(inputs.values()))
    return nodes, [known[node] for node in nodes], tuple(i for i, _ in writes)


def check(name: str, given: Call) -> None:
    """AssertionError unless our graph of the call is torch's call."""
    want, args = torchs(name, given)
    nodes, got, written = ours(name, given)
    want += [args[i] for i in written]
    assert [node.type for node in nodes] == [value_type(value) for value in want]
    for one, other in zip(got, want, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("name", CALLS)
def test_import_has_torchs_types_and_bits(name: str) -> None:
    for dtype, layout in COMBINATIONS:
        if name == "avg_pool3d" and dtype is torch.bfloat16:
            continue  # torch has no such kernel
        for i, given in enumerate(CALLS[name](Make(dtype, layout))):
            try:
                check(name, given)
            except (AssertionError, LazyTorchError) as error:
                error.add_note(f"call {i} of {name}, {dtype}, {layout}")
                raise


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("name", REDUCE | LINALG)
def test_other_dtypes_come_out_as_in_torch_or_are_refused_as_there(
    name: str, dtype: torch.dtype
) -> None:
    for given in CALLS[name](Make(dtype)):
        try:
            torchs(name, given)
        except RuntimeError:
            with pytest.raises((LazyTorchError, RuntimeError)):
                ours(name, given)
        else:
            check(name, given)


t = Make()
REFUSED: list[tuple[str, Call, type[LazyTorchError]]] = [
    ("sum.dim_IntList", call(t(2, 3), [2]), BoundsError),
    ("sum.dim_IntList", call(t(2, 3), [0, -2]), ShapeError),
    ("amax", call(t(2, 0), [1]), ShapeError),
    ("argmax", call(t(0)), ShapeError),
    ("mean", call(t.classes(3, 4)), DTypeError),
    ("softmax.int", call(t.classes(3, 4), 0), DTypeError),
    ("matmul", call(t(2, 3), t(4, 5)), ShapeError),
    ("matmul", call(t(), t(4)), ShapeError),
    ("matmul", call(t(2, 2, 3), t(3, 3, 5)), ShapeError),
    ("matmul", call(t(2, 3), t(3, 5).double()), DTypeError),
    ("mm", call(t(2, 2, 3), t(3, 5)), ShapeError),
    ("bmm", call(t(2, 2, 3), t(3, 3, 5)), ShapeError),
    ("addmm", call(t(4), t(2, 3), t(3, 5)), ShapeError),
    ("linear", call(t(2, 3), t(5, 4)), ShapeError),
    ("linear", call(t(2, 3), t(5, 3), t(4)), ShapeError),
    ("conv2d", call(t(2, 3, 8, 8), t(4, 2, 3, 3)), ShapeError),
    ("conv2d", call(t(2, 3, 2, 2), t(4, 3, 3, 3)), ShapeError),
    ("conv2d", call(t(2, 3, 8, 8), t(4, 3, 3, 3), t(3)), ShapeError),
    ("conv2d", call(t(3, 8), t(4, 3, 3, 3)), ShapeError),
    ("conv2d", call(t(2, 3, 8, 8), t(4, 3, 3, 3).double()), DTypeError),
    ("conv2d.padding", call(t(2, 3, 8, 8), t(4, 3, 3, 3), None, [2, 2], "same"), ShapeError),
    ("conv2d", call(t(2, 3, 8, 8), t(4, 3, 3, 3), None, [0, 1]), ShapeError),
    ("max_pool2d", call(t(2, 3, 8, 8), [2, 2], [1, 1], [2, 2]), ShapeError),
    ("max_pool2d", call(t(2, 3, 8, 8), [2, 2], [0, 1]), ShapeError),
    ("max_pool2d", call(t(2, 3, 1, 1), [2, 2]), ShapeError),
    ("max_pool2d", call(t(3, 3), [2, 2]), ShapeError),
    ("layer_norm", call(t(2, 3), [4]), ShapeError),
    ("layer_norm", call(t(2, 3), [3], t(2)), ShapeError),
    ("group_norm", call(t(2, 3), 2), ShapeError),
    ("batch_norm", call(t(2, 3), t(2), None, t(3), t(3), False, 0.1, 1e-5, True), ShapeError),
    ("scaled_dot_product_attention", call(t(2, 3, 4), t(2, 3, 5), t(2, 3, 5)), ShapeError),
    ("cross_entropy_loss", call(t(3, 4), t.classes(4, 2)), ShapeError),
    ("nll_loss_nd", call(t(3, 4), t.classes(4, 2)), ShapeError),
    ("mse_loss", call(t(3, 4), t(3)), ShapeError),
]


@pytest.mark.parametrize(("name", "given", "kind"), REFUSED)
def test_what_torch_refuses_is_refused_while_recording(
    name: str, given: Call, kind: type[LazyTorchError]
) -> None:
    with pytest.raises(RuntimeError):
        torchs(name, given)
    with pytest.raises(kind):
        imported(name, given, {})


def test_an_odd_same_padding_is_left_to_torch() -> None:
    given = call(t(2, 3, 8, 8), t(4, 3, 2, 2), None, [1, 1], "same")
    assert imported("conv2d.padding", given, {}) is NotImplemented


def test_any_of_no_dims_is_left_to_torch() -> None:
    assert imported("any.dims", call(t(2, 3), []), {}) is NotImplemented


def test_statistics_are_written_in_training_only() -> None:
    stats = (t(2, 3), None, None, t(3), t.unit(3))
    training = imported("batch_norm", call(*stats, True, 0.1, 1e-5, True), {})
    assert [position for position, _ in training.writes] == [3, 4]
    assert imported("batch_norm", call(*stats, False, 0.1, 1e-5, True), {}).__class__ is Node


def test_a_varying_momentum_is_an_operand() -> None:
    x, mean, var = t(4, 3), t(3), t.unit(3)
    inputs: dict[Node, Any] = {}
    momentum = imported("mean", call(t.unit(4)), inputs)
    given = call(x, None, None, mean, var, True, momentum, 1e-5, True)
    result = imported("batch_norm", given, inputs)
    nodes = [result.results, *[node for _, node in result.writes]]
    known = evaluate(Graph(tuple(inputs), tuple(nodes)), tuple(inputs.values()))
    want = torch.nn.functional.batch_norm(
        x, mean, var, training=True, momentum=float(known[momentum])
    )
    for node, other in zip(nodes, (want, mean, var), strict=True):
        assert_same_bits(known[node], other)


def test_dropout_inside_an_operation_makes_it_an_effect() -> None:
    q = t(1, 2, 3, 4)
    given = call(q, q, q, None, 0.5)
    assert imported("scaled_dot_product_attention", given, {}).op.effect
    assert not imported("scaled_dot_product_attention", call(q, q, q), {}).op.effect
    *_, last = CALLS["lstm.input"](t)
    assert imported("lstm.input", last, {})[0].inputs[0].op.effect


def test_the_attention_kernels_in_force_are_recorded() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k = t(1, 2, 3, 4).transpose(1, 2), t(1, 3, 2, 4)
    with sdpa_kernel(SDPBackend.MATH):
        node = imported("scaled_dot_product_attention", call(q, k, k), {})
        want = torch.nn.functional.scaled_dot_product_attention(q, k, k)
    assert node.op.kernels == ("MATH",)
    assert node.type == value_type(want)
    assert_same_bits(node.op.run(q, k, k), want)


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (Sum((0,)), [(3,)]),
        (Mean((0,)), [(3,)]),
        (Softmax(0), [(3,)]),
        (Matmul(), [(3, 4), (4, 5)]),
        (Convolution((1,), (0,), (1,)), [(2, 3, 8), (4, 3, 3)]),
    ],
)
def test_a_device_that_is_not_here_is_typed(op: Any, shapes: list[tuple[int, ...]]) -> None:
    operands = [tensor_type(shape, torch.float32, "cuda:0") for shape in shapes]
    assert op.infer(*operands).device == torch.device("cuda:0")


@pytest.mark.parametrize("name", LINALG | CONV | NORM | ATTENTION | RECURRENT | LOSS)
def test_operands_on_two_devices_are_refused(name: str) -> None:
    nodes: list[Node] = []

    def elsewhere(value: Any) -> Any:
        """The argument with all tensors but the first on a GPU."""
        if isinstance(value, torch.Tensor):
            typed = value_type(value)
            assert isinstance(typed, TensorType)
            device = "cuda:0" if nodes else "cpu"
            here = tensor_type(typed.shape, typed.dtype, device, typed.strides)
            nodes.append(input(f"x{len(nodes)}", here))
            return nodes[-1]
        return [elsewhere(v) for v in value] if isinstance(value, list) else value

    args, kwargs = CALLS[name](Make())[0]
    operands = [elsewhere(a) for a in args]
    with pytest.raises(LazyTorchError, match=r"on (one|the same) device"):
        IMPORTERS[overload(name)](Builder(), *operands, **kwargs)


def test_every_importer_of_ours_has_a_call() -> None:
    families = ("conv", "linalg", "loss", "nn", "norm", "pool", "reduce")
    found = {
        str(func)
        for func, importer in IMPORTERS.items()
        if importer.__module__.removeprefix("lazytorch.frontend.aten.") in families
    }
    known = {str(overload(name)) for name in CALLS}
    untested = {"aten.cudnn_batch_norm.default", "aten._batch_norm_impl_index.default"}
    untested |= {"aten.linalg_matmul.default", "aten.conv3d.padding"}
    kernels = ("flash", "efficient", "cudnn")  # of a GPU: tests/test_attention_dropout.py
    untested |= {f"aten._scaled_dot_product_{name}_attention.default" for name in kernels}
    assert found - known == untested
