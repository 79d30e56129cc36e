"""The compiled function that asks many tensors and dictionaries at once whether they changed.

Asked one by one from Python, hundreds of weights take longer than all other guards together. What
is compiled needs no headers: of torch it uses the C interface for compiled models and the function
behind `Tensor._version`, of Python two functions of its stable interface, all by their addresses.
Where there is no compiler, or one of them is missing, and until it is compiled, Python asks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch._C._aoti import unsafe_alloc_void_ptrs_from_tensors

from lazytorch.frontend.dicts import Dicts, compared
from lazytorch.lower.cpp.toolchain import SUFFIX
from lazytorch.runtime.background import Background

SOURCE = """
typedef int32_t (*Ask)(const void* tensor, void* answer);
struct Questions {
    Ask data, dim, sizes, strides, dtype, device, index;
    int64_t (*version)(const void* tensor);
};

// Writes what the tensors say to `marks`, which has room for `room` numbers, or, with no room,
// compares it with what is there. Returns how many numbers were written, or whether all are equal;
// -1 where torch refused to answer or there is too much to write.
extern "C" int64_t lt_marks(const Questions* ask, const void* const* tensors, int64_t count,
                            int64_t versions, int64_t* marks, int64_t room) {
    int64_t at = 0;
    for (int64_t i = 0; i < count; ++i) {
        const void* x = tensors[i];
        int64_t data = 0, dim = 0, *sizes = nullptr, *strides = nullptr;
        int32_t dtype = 0, device = 0, index = 0;
        if (ask->data(x, &data) || ask->dim(x, &dim) || ask->sizes(x, &sizes) ||
            ask->strides(x, &strides) || ask->dtype(x, &dtype))
            return -1;
        // An address belongs to one device.
        if (!data && (ask->device(x, &device) || ask->index(x, &index))) return -1;
        const int64_t version = i < versions ? ask->version(x) : 0;
        if (room && at + 6 + 2 * dim > room) return -1;
        const int64_t first[] = {data, version, dim, dtype, device, index};
        for (int64_t value : first) {
            if (room) marks[at++] = value;
            else if (marks[at++] != value) return 0;
        }
        for (int64_t k = 0; k < dim; ++k) {
            if (room) {
                marks[at++] = sizes[k];
                marks[at++] = strides[k];
            } else if (marks[at] != sizes[k] || marks[at + 1] != strides[k]) {
                return 0;
            } else {
                at += 2;
            }
        }
    }
    return room ? at : 1;
}

struct Dictionary {
    int64_t (*size)(void* dictionary);
    int (*next)(void* dictionary, int64_t* position, void** key, void** value);
};

// Whether dictionaries of Python have these sizes and hold these keys and values, in this order.
extern "C" int64_t lt_dicts(const Dictionary* ask, void* const* dicts, int64_t count,
                            const int64_t* sizes, void* const* entries) {
    for (int64_t i = 0; i < count; ++i) {
        if (ask->size(dicts[i]) != sizes[i]) return 0;
        int64_t position = 0;
        void *key, *value;
        for (int64_t k = 0; k < sizes[i]; ++k, entries += 2) {
            if (!ask->next(dicts[i], &position, &key, &value)) return 0;
            if (key != entries[0] || value != entries[1]) return 0;
        }
    }
    return 1;
}
"""

_QUESTIONS = (
    *("aoti_torch_get_data_ptr", "aoti_torch_get_dim", "aoti_torch_get_sizes"),
    *("aoti_torch_get_strides", "aoti_torch_get_dtype", "aoti_torch_get_device_type"),
    *("aoti_torch_get_device_index", "_ZNK2at10TensorBase8_versionEv"),
)
_FIELDS = 6  # numbers before the sizes of each tensor


class Asker(Background):
    """The compiled function, once for the process."""

    ready: ClassVar[Asker | None] = None
    source: ClassVar[str] = SOURCE

    def __init__(self, library: ctypes.CDLL) -> None:
        name = f"libtorch_cpu{SUFFIX}"
        own = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
        addresses = [address(own, question) for question in _QUESTIONS]
        self.questions = (ctypes.c_void_p * len(addresses))(*addresses)
        self.forget = own.aoti_torch_delete_tensor_object
        self.forget.argtypes = [ctypes.c_void_p]
        to_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
        self.pointer = to_pointer(("PyCapsule_GetPointer", ctypes.pythonapi))
        kinds = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        prototype = ctypes.PYFUNCTYPE(ctypes.c_int64, *kinds, ctypes.c_void_p, ctypes.c_int64)
        self.run = prototype(address(library, "lt_marks"))
        asked = [address(ctypes.pythonapi, name) for name in ("PyDict_Size", "PyDict_Next")]
        self.dictionary = (ctypes.c_void_p * len(asked))(*asked)
        prototype = ctypes.PYFUNCTYPE(
            ctypes.c_int64, *kinds[:2], ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
        )
        self.dicts = partial(prototype(address(library, "lt_dicts")), ctypes.byref(self.dictionary))

    @classmethod
    def take(cls, library: ctypes.CDLL) -> None:
        """Use it, if it says what Python says."""
        asker = cls(library)
        if asker.agrees():
            cls.ready, Dicts.compiled = asker, staticmethod(asker.dicts)

    def agrees(self) -> bool:
        """Whether it says of a tensor and of a dictionary what Python says."""
        x = torch.zeros(6, dtype=torch.float64).view(2, 3)[:, 1:]
        x.add_(1)
        said = list(Answers(self, [x], 1).marks)
        typed = [size for pair in zip(x.shape, x.stride(), strict=True) for size in pair]
        entries = {"x": x}
        same = compared(self.dicts, [entries])
        before = same()
        entries["y"] = x
        return (
            said[:3] + said[_FIELDS:] == [x.data_ptr(), x._version, x.dim(), *typed]
            and before == 1
            and same() == 0
        )


class Answers:
    """What tensors said to the compiled function; the first `versions` of them their version too.

    Versions are asked of tensors that have one: inference tensors have none.
    """

    def __init__(self, asker: Asker, tensors: Sequence[torch.Tensor], versions: int) -> None:
        self.asker = asker
        self.handles: list[int] = []
        capsules: list[Any] = unsafe_alloc_void_ptrs_from_tensors(list(tensors))
        self.handles += [asker.pointer(capsule, None) for capsule in capsules]
        self.tensors = (ctypes.c_void_p * len(self.handles))(*self.handles)
        self.size = sum(_FIELDS + 2 * x.dim() for x in tensors)
        self.marks = (ctypes.c_int64 * self.size)()
        given = (ctypes.byref(asker.questions), ctypes.byref(self.tensors), len(tensors), versions)
        marks = ctypes.byref(self.marks)
        self.answered = asker.run(*given, marks, self.size) == self.size
        self.ask: Callable[[], int] = partial(asker.run, *given, marks, 0)

    def same(self) -> bool:
        """Whether they would say the same again."""
        return self.answered and self.ask() == 1

    def __del__(self) -> None:
        for handle in self.handles:
            self.asker.forget(handle)


def address(library: ctypes.CDLL, name: str) -> int:
    """Where a function of a library is."""
    found = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert found is not None
    return found
