"""The Python module that a generated Triton kernel is: the kernel, and how it is compiled."""

from __future__ import annotations

from collections.abc import Sequence

from lazytorch.lower.kernel import NAME

TEMPLATE = '''"""{summary}"""
import triton
import triton.language as tl

from lazytorch.lower.triton import arithmetic as lt
from lazytorch.lower.triton.arithmetic import libdevice

SIGNATURE = {signature}
DIVISIBILITY = {divisibility}
OPTIONS = {options}


@triton.jit(do_not_specialize={numbers})
def {name}({parameters}):
    {body}
'''


def module_source(
    summary: str,
    signature: dict[str, str],
    numbers: Sequence[str],
    statements: Sequence[str],
    warps: int,
    rounding: bool,
    divisibility: dict[str, int],
) -> str:
    """A module with the kernel, and what is needed to compile it ahead of its first launch.

    `signature` has the kernel's arguments, `numbers` those of them that are integers.
    """
    return TEMPLATE.format(
        summary=summary.replace("_", " "),
        signature=signature,
        divisibility=divisibility,
        options={
            "num_warps": warps,
            "enable_fp_fusion": not rounding,
            "enable_reflect_ftz": False,  # eager keeps subnormal numbers
        },
        numbers=list(numbers),
        name=NAME,
        parameters=", ".join(signature),
        body="\n    ".join(statements),
    )


def indented(lines: Sequence[str]) -> list[str]:
    """Lines of an inner block."""
    return ["    " + line for line in lines]
