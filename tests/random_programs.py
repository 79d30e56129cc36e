"""Random functions of two tensors, written as Python: views, writes in place, modes, detached
tensors, a buffer and a parameter that the function holds."""

from __future__ import annotations

import random

VIEWS = (
    "{0}.t()", "{0}[1]", "{0}[:, 1]", "{0}[1:]", "{0}[:, ::2]", "{0}.view(-1)", "{0}.reshape(-1)",
    "{0}.unsqueeze(0)", "{0}.squeeze()", "{0}.expand(2, *{0}.shape)", "{0}.flatten()",
    "{0}.unbind(0)[0]", "{0}.diagonal()", "{0}.detach()", "{0}.view_as({0})", "{0}.narrow(0, 0, 1)",
    "{0}.transpose(0, -1)", "{0}.chunk(2)[0]", "{0}.contiguous()", "{0}.as_strided((2,), (1,), 1)",
    "{0}.data",
)  # fmt: skip
VALUES = (
    "{0} * 2", "{0}.sin()", "{0}.clone()", "{0} + {1}", "{0} * {1}", "{0}.relu()", "{0}.sum()",
    "{0}.mean(0)", "torch.where({0} > 0, {0}, {1})", "{0}.exp().clamp(max=3.0)",
    "torch.stack([{0}, {0}])", "torch.cat([{0}.flatten(), {1}.flatten()])", "{0}.softmax(-1)",
    "{0} @ {1}", "{0}.cumsum(0)", "torch.zeros_like({0})", "torch.maximum({0}, {1})",
    "{0}.masked_fill({0} > 0.5, 0.1)",
)  # fmt: skip
WRITES = (
    "{0}.mul_(2)", "{0}.add_({1})", "{0}.copy_({1})", "{0}.zero_()", "{0}.relu_()", "{0}[0] = {1}",
    "{0}[0] = 1.5", "{0}.t_()", "{0}[{0} > 0.3] = 0.2", "{0}.detach_()", "{0}.clamp_(-1, 1)",
    "{0}.data.mul_(3)", "torch.sin({0}, out={1})", "{0}.fill_(2.0)",
    "{0}.index_add_(0, torch.tensor([0]), {1}.unsqueeze(0))", "{0}.masked_fill_({0} > 0, 1.0)",
    "{0}.unsqueeze_(0)",
)  # fmt: skip
MODES = ("with torch.no_grad():", "with torch.no_grad():", "with torch.enable_grad():")


def program(rng: random.Random) -> str:
    """The text of a function `f(x, y)`, which may read and write `buffer` and `parameter`."""
    names, lines, depth = ["x", "y", "buffer", "parameter"], ["def f(x, y):"], 1
    for i in range(rng.randint(3, 12)):
        drawn = rng.random()
        if depth > 1 and drawn < 0.3:
            depth -= 1
        elif depth < 3 and drawn > 0.8:
            lines += ["    " * depth + rng.choice(MODES), "    " * (depth + 1) + "pass"]
            depth += 1
        kind = rng.choices((VIEWS, VALUES, WRITES), (4, 3, 3))[0]
        step = rng.choice(kind).format(rng.choice(names), rng.choice(names))
        if kind is not WRITES:
            step = f"v{i} = {step}"
            names.append(f"v{i}")
        lines.append("    " * depth + step)
    lines.append(f"    return [{', '.join(rng.sample(names, 3))}]")
    return "\n".join(lines)
