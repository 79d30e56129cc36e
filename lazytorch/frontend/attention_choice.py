"""Which of its attention kernels torch would choose, were the operands its own.

The choice depends on which of them require gradients (no derivative of cuDNN's is by the mask),
which a recorded tensor does not tell torch; and on whether there is a mask. Libraries that look at
a mask first, and leave it out where it hides nothing or just what lies ahead, do not look while
they are traced: it is left out for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch._C import DispatchKey
from torch.nn.attention import SDPBackend

from lazytorch.ops.masks import Pattern


class Described(torch.Tensor):
    """A tensor without memory of which torch's own code sees shape, strides, dtype, device and
    whether it requires a gradient."""

    @classmethod
    def of(cls, x: torch.Tensor) -> Described:
        """What is known of `x` without its values."""
        make: Any = torch.Tensor._make_wrapper_subclass
        return make(
            cls, x.shape, strides=x.stride(), dtype=x.dtype, device=x.device,
            requires_grad=x.requires_grad,
        )  # fmt: skip

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> NoReturn:  # type: ignore[override]
        raise AssertionError(f"{func} of a tensor that is only described")


def without_known_mask(
    args: Sequence[Any], kwargs: Mapping[str, Any], known: Callable[[torch.Tensor], Pattern | None]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of `scaled_dot_product_attention` without a mask that `known` knows."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    mask, query, key = given.get("attn_mask"), given["query"], given["key"]
    hides = known(mask) if isinstance(mask, torch.Tensor) else None
    square = query.shape[-2] == key.shape[-2]
    if hides is None or given.get("is_causal") or (hides == "causal" and not square):
        return tuple(args), dict(kwargs)
    given |= {"attn_mask": None, "is_causal": hides == "causal"}
    operands = tuple(given.pop(name) for name in names[:3])
    return operands, given


def chosen(args: Iterable[Any], kwargs: Mapping[str, Any]) -> SDPBackend:
    """Torch's kernel on a GPU for a call of `scaled_dot_product_attention`."""

    def described(x: Any) -> Any:
        return Described.of(x) if isinstance(x, torch.Tensor) else x

    choose = torch.ops.aten._fused_sdp_choice.default
    given = {name: described(x) for name, x in kwargs.items()}
    return SDPBackend(choose._op_dk(DispatchKey.CUDA, *map(described, args), **given))
