"""From the source of a generated Triton kernel to what Triton compiles of it.

Imports no torch, so that a process without it can compile (`server`).
"""

from __future__ import annotations

import linecache
from types import ModuleType
from typing import Any

ALIGNMENT = 16
"""Bytes of the widest load; its address must be a multiple of them."""


def compile_kernel(module: ModuleType, function: Any, aligned: bool, target: Any) -> Any:
    """Triton's compiled kernel for the arguments that a generated module announces.

    `target` None means the current device.
    """
    import triton
    from triton.compiler import ASTSource

    signature: dict[str, str] = module.SIGNATURE
    divisors: dict[str, int] = dict(module.DIVISIBILITY)
    if aligned:
        divisors |= {x: ALIGNMENT for x, kind in signature.items() if kind.startswith("*")}
    attributes = {
        (k,): [["tt.divisibility", divisors[x]]] for k, x in enumerate(signature) if x in divisors
    }
    source = ASTSource(function, signature, {}, attributes)
    compiled: Any = triton.compile(source, target=target, options=module.OPTIONS)
    return compiled


def run_source(name: str, source: str) -> ModuleType:
    """The module that a kernel's source defines.

    Triton reads the source of its functions, and so do tracebacks; both ask `linecache`, so no
    file is needed.
    """
    file = f"<lazytorch {name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    module = ModuleType(name)
    exec(compile(source, file, "exec"), module.__dict__)
    return module
