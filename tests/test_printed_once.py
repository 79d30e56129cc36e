"""Equal groups are one kernel, whose text is printed once for a target."""

from __future__ import annotations

from test_triton_kernels import built, case_of, check, target, whole

from lazytorch.lower.triton import TritonTarget

__all__ = ["target"]


def test_equal_groups_are_printed_once_a_target(target: TritonTarget) -> None:
    case = case_of(whole(31, 129), whole(129))
    (one,), (other,) = built(target, case), built(target, case)
    assert one.op is not other.op and one.kernel is other.kernel
    (wider,) = built(target, case_of(whole(31, 129), whole(31, 129)))
    assert wider.kernel is not one.kernel
    (elsewhere,) = built(TritonTarget(), case)
    assert elsewhere.kernel == one.kernel and elsewhere.kernel is not one.kernel
    for found in (one, wider):
        check(found.case, found.tensors, found.op, found.run(target))
