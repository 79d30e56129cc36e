"""Calls of torch's overloads: reductions, products, convolutions, norms, attention, losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from calls import Call, Make, call


def argmin(t: Make) -> list[Call]:
    """Of everything, of one dimension, keeping it."""
    return [call(t(2, 3, 4)), call(t(2, 3, 4), 1), call(t(2, 3), -1, True)]


REDUCE: dict[str, Callable[[Make], list[Call]]] = {
    "sum": lambda t: [
        call(t(3, 4)),
        call(t()),
        call(t(2, 0)),
        call(t(2, 3, 4), dtype=torch.float64),
    ],
    "sum.dim_IntList": lambda t: [
        call(t(2, 3, 4, 5), [1]),
        call(t(2, 3, 4, 5), [-1, 0], True),
        call(t(2, 3, 4, 5), None),
        call(t(2, 3, 4, 5), []),
        call(t(2, 3), 0),
        call(t(), [0]),
        call(t(2, 0, 3), [1]),
    ],
    "mean": lambda t: [call(t(3, 4)), call(t())],
    "mean.dim": lambda t: [
        call(t(2, 3, 4, 5), [2, 3]),
        call(t(2, 3, 4, 5), [-1], True),
        call(t(2, 3), [1], dtype=torch.float64),
    ],
    "prod": lambda t: [call(t(3, 4)), call(t())],
    "prod.dim_int": lambda t: [call(t(3, 4), 1), call(t(3, 4), -2, True)],
    "amax": lambda t: [call(t(2, 3, 4)), call(t(2, 3, 4), [0, 2]), call(t(2, 3), [1], True)],
    "amin": lambda t: [call(t(2, 3, 4)), call(t(2, 3, 4), [0, 2]), call(t(2, 3), [1], True)],
    "max": lambda t: [call(t(2, 3, 4)), call(t())],
    "min": lambda t: [call(t(2, 3, 4)), call(t())],
    "max.dim": lambda t: [call(t(2, 3, 4), 1), call(t(2, 3, 4), -1, True), call(t(), 0)],
    "min.dim": lambda t: [call(t(2, 3, 4), 1), call(t(2, 3, 4), -1, True)],
    "argmax": lambda t: ([*argmin(t), call(t(2, 3), None, True), call(t(), 0)]),
    "argmin": argmin,
    "any": lambda t: [call(t(2, 3))],
    "any.dim": lambda t: [call(t(2, 3), 1), call(t(2, 3), 0, True)],
    "any.dims": lambda t: [call(t(2, 3, 4), [0, 1]), call(t(2, 3))],
    "all": lambda t: [call(t(2, 3)), call(t())],
    "all.dim": lambda t: [call(t(2, 3), 1), call(t(2, 3), 0, True)],
    "all.dims": lambda t: [call(t(2, 3, 4), [0, 1], True), call(t(2, 3))],
    "logsumexp": lambda t: [call(t(2, 3, 4), [1]), call(t(2, 3, 4), [0, 2], True)],
    "linalg_vector_norm": lambda t: [
        call(t(2, 3, 4)),
        call(t(2, 3, 4), 1, [1], True),
        call(t(2, 3, 4), float("inf"), [0, 2]),
        call(t(2, 3, 4), 0, [0]),
        call(t(2, 3), 3.5, [1], dtype=torch.float64),
    ],
    "var.correction": lambda t: [
        call(t(2, 3, 4)),
        call(t(2, 3, 4), [1], correction=0, keepdim=True),
        call(t(2, 3, 4), [0, 2], correction=2),
    ],
    "std.correction": lambda t: [call(t(2, 3, 4)), call(t(2, 3, 4), [1], correction=0.5)],
    "var_mean.correction": lambda t: [
        call(t(2, 3, 4)),
        call(t(2, 3, 4), [-1], correction=0, keepdim=True),
    ],
    "std_mean.correction": lambda t: [call(t(2, 3, 4)), call(t(2, 3, 4), [-1], correction=0)],
    "softmax.int": lambda t: [
        call(t(2, 3, 4), 1),
        call(t(2, 3, 4, 5), -1, torch.float64),
        call(t(), 0),
    ],
    "log_softmax.int": lambda t: [call(t(2, 3, 4), 1), call(t(2, 3, 4), -1, torch.float64)],
    "_softmax": lambda t: [call(t(2, 3, 4), -1, False)],
    "_safe_softmax": lambda t: [call(t(2, 3, 4), -1), call(t(2, 3, 4), 1, torch.float64)],
    "_log_softmax": lambda t: [call(t(2, 3, 4), 0, False)],
    "cumsum": lambda t: [call(t(2, 3, 4), 1), call(t(2, 3, 4), -1, dtype=torch.float64)],
    "cumprod": lambda t: [call(t(2, 3, 4), 1), call(t(), 0)],
}

LINALG: dict[str, Callable[[Make], list[Call]]] = {
    "matmul": lambda t: [
        call(t(4), t(4)),
        call(t(3, 4), t(4)),
        call(t(4), t(4, 5)),
        call(t(3, 4), t(4, 5)),
        call(t(2, 3, 4), t(4, 5)),
        call(t(3, 4), t(2, 4, 5)),
        call(t(4), t(2, 4, 5)),
        call(t(2, 3, 4), t(4)),
        call(t(2, 3, 4), t(2, 4, 5)),
        call(t(6, 1, 3, 4), t(2, 4, 5)),
        call(t(2, 0, 4), t(4, 5)),
        call(t(2, 3, 0), t(0, 5)),
    ],
    "mm": lambda t: [call(t(3, 4), t(4, 5)), call(t(3, 0), t(0, 2))],
    "bmm": lambda t: [call(t(2, 3, 4), t(2, 4, 5))],
    "dot": lambda t: [call(t(4), t(4))],
    "mv": lambda t: [call(t(3, 4), t(4))],
    "addmm": lambda t: [
        call(t(5), t(3, 4), t(4, 5)),
        call(t(3, 5), t(3, 4), t(4, 5), beta=2, alpha=3),
        call(t(), t(3, 4), t(4, 5)),
    ],
    "baddbmm": lambda t: [
        call(t(5), t(2, 3, 4), t(2, 4, 5)),
        call(t(2, 3, 5), t(2, 3, 4), t(2, 4, 5), beta=0, alpha=2),
    ],
    "linear": lambda t: [
        call(t(3, 4), t(5, 4), t(5)),
        call(t(3, 4), t(5, 4)),
        call(t(2, 3, 4), t(5, 4), t(5)),
        call(t(2, 2, 3, 4), t(5, 4), t(5)),
        call(t(4), t(5, 4), t(5)),
        call(t(3, 4), t(4)),
        call(t(0, 4), t(5, 4), t(5)),
    ],
}

CONV: dict[str, Callable[[Make], list[Call]]] = {
    "conv1d": lambda t: [
        call(t(2, 4, 9), t(6, 4, 3), t(6), [2], [1]),
        call(t(2, 4, 9), t(6, 2, 3), None, [1], [1], [2], 2),
        call(t(4, 9), t(6, 4, 3), t(6)),
    ],
    "conv2d": lambda t: [
        call(t(2, 4, 9, 8), t(6, 4, 3, 3), t(6), [2, 2], [1, 1]),
        call(t(2, 4, 9, 8), t(6, 4, 1, 1)),
        call(t(1, 4, 5, 5), t(4, 1, 3, 3), t(4), [1, 1], [1, 1], [1, 1], 4),
        call(t(2, 4, 1, 1), t(6, 4, 1, 1), t(6)),
        call(t(2, 1, 6, 6), t(3, 1, 3, 3), None, [1, 1], [2, 2], [2, 2]),
        call(t(1, 3, 6, 6), t(1, 3, 3, 3)),
        call(t(4, 9, 8), t(6, 4, 3, 3), t(6)),
        call(t(0, 4, 9, 8), t(6, 4, 3, 3)),
    ],
    "conv3d": lambda t: [
        call(t(2, 4, 5, 6, 7), t(6, 4, 3, 3, 3), t(6), [1, 2, 1], [1, 1, 1]),
        call(t(1, 2, 4, 4, 4), t(3, 2, 1, 1, 1)),
    ],
    "conv1d.padding": lambda t: [call(t(2, 4, 9), t(6, 4, 3), t(6), [1], "same")],
    "conv2d.padding": lambda t: [
        call(t(2, 4, 9, 8), t(6, 4, 3, 5), t(6), [1, 1], "same"),
        call(t(2, 4, 9, 8), t(6, 4, 3, 3), None, [2, 1], "valid"),
        call(t(2, 4, 9, 8), t(6, 4, 3, 3), None, [1, 1], "same", [2, 2]),
    ],
    "conv_transpose1d": lambda t: [call(t(2, 4, 5), t(4, 3, 3), t(3), [2], [1], [1])],
    "conv_transpose2d.input": lambda t: [
        call(t(2, 4, 5, 5), t(4, 3, 3, 3), t(3), [2, 2], [1, 1], [1, 1]),
        call(t(2, 4, 5, 5), t(4, 2, 3, 3), None, [1, 1], [0, 0], [0, 0], 2, [2, 2]),
        call(t(4, 5, 5), t(4, 3, 3, 3)),
    ],
    "conv_transpose3d.input": lambda t: [call(t(2, 4, 3, 3, 3), t(4, 3, 2, 2, 2), t(3))],
    "convolution": lambda t: [
        call(t(2, 4, 9, 8), t(6, 4, 3, 3), t(6), [1], [1], [1], False, [0], 1),
        call(t(2, 4, 5, 5), t(4, 3, 3, 3), None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1),
    ],
    "_convolution": lambda t: [
        call(
            *(t(2, 4, 9, 8), t(6, 4, 3, 3), t(6), [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
            *(False, False, True, True),
        ),
    ],
}


def images(t: Make, *more: Any) -> list[Call]:
    """Resizes of images of three channels and of one."""
    return [call(t(2, c, 6, 8), [9, 4], *more) for c in (3, 1)]


POOL: dict[str, Callable[[Make], list[Call]]] = {
    "max_pool1d": lambda t: [call(t(2, 3, 9), [2]), call(t(3, 9), [3], [1], [1], [2], True)],
    "max_pool2d": lambda t: [
        call(t(2, 3, 9, 8), [3, 3], [2, 2], [1, 1]),
        call(t(2, 3, 9, 8), [2, 2]),
        call(t(2, 3, 7, 7), [2], [2], [1], [1], True),
        call(t(3, 7, 7), [2, 3], [], [0, 0], [2, 2]),
        call(t(2, 1, 2, 2), [2, 2]),
    ],
    "max_pool3d": lambda t: [call(t(2, 3, 4, 5, 6), [2, 2, 2], [1])],
    "max_pool2d_with_indices": lambda t: [call(t(2, 3, 9, 8), [3, 3], [2, 2], [1, 1])],
    "avg_pool1d": lambda t: [call(t(2, 3, 9), [2]), call(t(3, 9), [3], [2], [1], True, False)],
    "avg_pool2d": lambda t: [
        call(t(2, 3, 9, 8), [3, 3], [2, 2], [1, 1]),
        call(t(3, 7, 7), [2], [], [0], True, False, 3),
        call(t(2, 3, 7, 7), [7, 7]),
    ],
    "avg_pool3d": lambda t: [call(t(2, 3, 4, 5, 6), [2, 2, 2])],
    "adaptive_avg_pool1d": lambda t: [call(t(2, 3, 9), [4]), call(t(3, 9), [1])],
    "adaptive_avg_pool2d": lambda t: [
        call(t(2, 3, 9, 8), [1, 1]),
        call(t(2, 3, 9, 8), [3, 2]),
        call(t(3, 9, 8), [1, 1]),
        call(t(3, 9, 8), [4, 4]),
        call(t(2, 1, 3, 3), [1, 1]),
    ],
    "upsample_nearest2d": images,
    "_upsample_nearest_exact2d": images,
    "upsample_bilinear2d": lambda t: images(t, True),
    "upsample_bicubic2d": lambda t: images(t, False, 1.5, 0.5),
}


def batch(t: Make, *shape: int, stats: bool = True, affine: bool = True) -> tuple[Any, ...]:
    """input, weight, bias, running_mean, running_var."""
    c = shape[1]
    weights = (t(c), t(c)) if affine else (None, None)
    return (t(*shape), *weights, *((t(c), t.unit(c)) if stats else (None, None)))


NORM: dict[str, Callable[[Make], list[Call]]] = {
    "batch_norm": lambda t: (
        [call(*batch(t, 2, 3, 4, 5), training, 0.1, 1e-5, True) for training in (False, True)]
        + [
            call(*batch(t, 2, 3, 4, 5, affine=False), False, 0.1, 1e-3, True),
            call(*batch(t, 2, 3, 4, 5, affine=False), True, 0.1, 1e-3, True),
            call(*batch(t, 2, 3, 4, 5, stats=False), True, 0.1, 1e-5, True),
            call(*batch(t, 4, 3), True, 0.3, 1e-5, True),
            call(*batch(t, 4, 3), False, 0.3, 1e-5, True),
            call(*batch(t, 2, 3, 7), True, 0.0, 1e-5, True),
            call(*batch(t, 2, 3, 4, 2, 3), True, 0.1, 1e-5, True),
            call(*batch(t, 2, 3, 1, 1), False, 0.1, 1e-5, True),
            call(*batch(t, 2, 1, 3, 3), True, 0.1, 1e-5, True),
        ]
    ),
    "native_batch_norm": lambda t: [
        call(*batch(t, 2, 3, 4, 5), True, 0.1, 1e-5),
        call(*batch(t, 2, 3, 4, 5), False, 0.1, 1e-5),
    ],
    "instance_norm": lambda t: [
        call(*batch(t, 2, 3, 4, 5, stats=False), True, 0.1, 1e-5, True),
        call(*batch(t, 2, 3, 4, 5, stats=False, affine=False), True, 0.1, 1e-5, True),
        call(*batch(t, 2, 3, 4, 5), True, 0.1, 1e-5, True),
        call(*batch(t, 2, 3, 4, 5), False, 0.1, 1e-5, True),
        call(*batch(t, 1, 3, 4, 5), True, 0.1, 1e-5, True),
        call(*batch(t, 2, 3, 7), True, 0.1, 1e-5, True),
    ],
    "layer_norm": lambda t: [
        call(t(2, 3, 4), [4], t(4), t(4)),
        call(t(2, 3, 4), [3, 4], t(3, 4), None, 1e-3),
        call(t(2, 3, 4), [4]),
        call(t(2, 3, 4, 5), [5], None, t(5)),
    ],
    "group_norm": lambda t: [
        call(t(2, 4, 3, 5), 2, t(4), t(4)),
        call(t(2, 4, 3, 5), 4),
        call(t(2, 4), 1, t(4), t(4), 1e-3),
        call(t(2, 4, 3, 2, 2), 2),
    ],
    "rms_norm": lambda t: [
        call(t(2, 3, 4), [4], t(4), 1e-6),
        call(t(2, 3, 4), [3, 4], t(3, 4)),
        call(t(2, 3, 4, 5), [5]),
    ],
}

ATTENTION: dict[str, Callable[[Make], list[Call]]] = {
    "scaled_dot_product_attention": lambda t: [
        call(t(2, 4, 5, 8), t(2, 4, 7, 8), t(2, 4, 7, 8)),
        call(t(2, 4, 5, 8), t(2, 4, 5, 8), t(2, 4, 5, 8), None, 0.0, True),
        call(t(2, 4, 5, 8), t(2, 4, 7, 8), t(2, 4, 7, 8), t(5, 7), scale=0.3),
        call(t(2, 4, 5, 8), t(2, 4, 7, 8), t(2, 4, 7, 8), t(2, 1, 1, 7) > 0),
        call(t(2, 4, 5, 8), t(2, 4, 7, 8), t(2, 4, 7, 8), t(4, 5, 7)),
        call(t(2, 4, 5, 8), t(2, 4, 7, 8), t(2, 4, 7, 6)),
        call(t(3, 5, 8), t(3, 7, 8), t(3, 7, 8)),
        call(t(5, 8), t(7, 8), t(7, 8)),
        call(t(2, 4, 5, 8), t(2, 2, 7, 8), t(2, 2, 7, 8), enable_gqa=True),
        call(t(2, 4, 5, 8), t(2, 1, 7, 8), t(2, 1, 7, 8)),
        call(t(1, 4, 5, 8), t(2, 4, 7, 8), t(2, 4, 7, 8)),
        call(t(1, 1, 1, 8), t(1, 1, 1, 8), t(1, 1, 1, 8)),
        call(t(2, 4, 5, 8), t(2, 4, 7, 8), t(2, 4, 7, 8), None, 0.5),
    ],
}


def layers(t: Make, gates: int, count: int, both: bool, biases: bool) -> list[torch.Tensor]:
    """The weights of stacked recurrent layers: 4 inputs, 3 hidden."""
    found: list[torch.Tensor] = []
    for layer in range(count):
        width = 4 if layer == 0 else (6 if both else 3)
        for _ in range(2 if both else 1):
            found += [t.plain(gates * 3, width), t.plain(gates * 3, 3)]
            found += [t.plain(gates * 3), t.plain(gates * 3)] if biases else []
    return found


def recurrent(t: Make, gates: int, lstm: bool = False) -> list[Call]:
    """One and two layers, one and both directions, both orders of time and batch."""
    calls: list[Call] = []
    for count, both, first, biases, dropout in (
        (1, False, False, True, 0.0),
        (1, True, True, True, 0.0),
        (2, True, False, True, 0.0),
        (2, False, True, False, 0.5),
    ):
        x = t(2, 5, 4)
        h = t.plain(count * (2 if both else 1), 2 if first else 5, 3)
        states = [h, t.plain(*h.shape)] if lstm else h
        weights = layers(t, gates, count, both, biases)
        calls.append(call(x, states, weights, biases, count, dropout, dropout > 0, both, first))
    return calls


RECURRENT: dict[str, Callable[[Make], list[Call]]] = {
    "lstm.input": lambda t: recurrent(t, 4, lstm=True),
    "gru.input": lambda t: recurrent(t, 3),
    "rnn_tanh.input": lambda t: recurrent(t, 1),
    "rnn_relu.input": lambda t: recurrent(t, 1),
}


def pairs(t: Make, *more: Any) -> list[Call]:
    """Losses of each element, with every reduction."""
    return [call(t(3, 4, 5, 2), t(3, 4, 5, 2), reduction, *more) for reduction in (0, 1, 2)]


LOSS: dict[str, Callable[[Make], list[Call]]] = {
    "mse_loss": lambda t: [*pairs(t), call(t(3, 4), t(4), 0)],
    "smooth_l1_loss": lambda t: [*pairs(t), *pairs(t, 0.5)],
    "huber_loss": lambda t: [*pairs(t), *pairs(t, 0.5)],
    "binary_cross_entropy": lambda t: [
        call(t.unit(3, 4), t.unit(3, 4)),
        call(t.unit(3, 4), t.unit(3, 4), t.unit(3, 4), 0),
        call(t.unit(3, 4), t.unit(3, 4), None, 2),
    ],
    "binary_cross_entropy_with_logits": lambda t: [
        call(t(3, 4), t.unit(3, 4)),
        call(t(3, 4), t.unit(3, 4), t.unit(3, 4), None, 0),
        call(t(3, 4), t.unit(3, 4), None, t.unit(4), 2),
        call(t(3, 4), t.unit(3, 4), t.unit(4), t.unit(4), 0),
    ],
    "cross_entropy_loss": lambda t: [
        call(t(3, 4), t.classes(4, 3)),
        call(t(3, 4), t.classes(4, 3), t.unit(4), 0),
        call(t(3, 4), t.classes(4, 3), None, 2, 1, 0.1),
        call(t(3, 4, 5, 2), t.classes(4, 3, 5, 2), None, 0),
        call(t(3, 4, 5), t.classes(4, 3, 5)),
        call(t(3, 4, 5), t.unit(3, 4, 5), None, 0),
        call(t(4), t.classes(4), None, 1),
    ],
    "nll_loss": lambda t: [
        call(t(3, 4), t.classes(4, 3), t.unit(4), 0),
        call(t(3, 4), t.classes(4, 3)),
    ],
    "nll_loss2d": lambda t: [call(t(3, 4, 5, 2), t.classes(4, 3, 5, 2), None, 0)],
    "nll_loss_nd": lambda t: [
        call(t(3, 4), t.classes(4, 3)),
        call(t(3, 4, 5, 2), t.classes(4, 3, 5, 2), None, 0),
        call(t(3, 4, 5), t.classes(4, 3, 5), None, 2, 1),
        call(t(4), t.classes(4)),
    ],
}

CALLS = REDUCE | LINALG | CONV | POOL | NORM | ATTENTION | RECURRENT | LOSS
