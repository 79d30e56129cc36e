"""What a graph's libraries read at their first call, read while the graph is lowered.

cuDNN finds and loads its files at a process's first convolution: about 0.2 s, as long as recording
and lowering a ResNet-50 takes. Both take their time at once if a thread makes a convolution of few
numbers meanwhile. It takes no memory that stays; where it fails, the program's own call says why.
"""

from __future__ import annotations

import threading
from functools import cache

import torch

from lazytorch.ir import Graph
from lazytorch.ops.conv import Convolution
from lazytorch.types import TensorType


def load(graph: Graph) -> threading.Thread | None:
    """The thread that loads cuDNN, if the graph convolves on a GPU."""
    for x in graph.nodes:
        if isinstance(x.op, Convolution) and isinstance(x.type, TensorType):
            cudnn = torch.backends.cudnn
            if x.type.device.type != "cuda" or not (cudnn.enabled and cudnn.is_available()):
                return None
            if torch.cuda.is_current_stream_capturing():  # into a graph of the user's
                return None
            return loading(x.type.device, x.type.dtype)
    return None


@cache
def loading(device: torch.device, dtype: torch.dtype) -> threading.Thread:
    """The thread of a device and a type of numbers, started; one a process. Its tensors are made
    here, since it would wait for Python at each call."""
    x, weight = (
        torch.zeros(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        for shape in ((1, 8, 8, 8), (8, 8, 3, 3))
    )
    thread = threading.Thread(target=convolve, args=(x, weight), daemon=True)
    thread.start()
    return thread


def convolve(x: torch.Tensor, weight: torch.Tensor) -> None:
    """One convolution by cuDNN, without its search for the fastest one."""
    try:
        torch.cudnn_convolution(x, weight, (1, 1), (1, 1), (1, 1), 1, False, False, True)
    except RuntimeError:
        return
