"""`cudnn_attention`: an attention and its derivative change kernels together, or not at all."""

from functools import partial

import pytest

from lazytorch.ir import Graph
from lazytorch.ops.attention_backward import AttentionBackward, AttentionSaving
from lazytorch.passes import cudnn_attention
from lazytorch.text import parse
from lazytorch.verify import verify

everywhere = partial(cudnn_attention, fits=lambda *_: True)


def graph(kernel: str = "flash", size: int = 64, returned: str = "%4") -> Graph:
    """Attention with the cotangent of its query."""
    typed = f"bf16[2, 3, 32, {size}] on cuda:0"
    return parse(f"""
    graph(%q: {typed}, %k: {typed}, %g: {typed}) {{
      %0 = attention_saving{{kernel="{kernel}", is_causal=True}} %q %k %k
      %1 = item{{index=0}} %0
      %2 = item{{index=1}} %0
      %3 = attention_backward{{kernel="{kernel}", is_causal=True}} %g %q %k %k %1 %2
      %4 = item{{index=0}} %3
      return {returned}
    }}
    """)


def kernels(found: Graph) -> list[str]:
    """The kernels of attentions and derivatives."""
    ops = [x.op for x in found.nodes]
    return [op.kernel for op in ops if isinstance(op, AttentionSaving | AttentionBackward)]


def test_both_become_cudnns() -> None:
    found = verify(everywhere(graph()))
    assert kernels(found) == ["cudnn", "cudnn"]
    assert everywhere(found) is found


@pytest.mark.parametrize(
    "declined",
    [graph("efficient"), graph(size=192), graph(returned="%4, %2")],
    ids=["another kernel", "large heads", "what is kept is returned"],
)
def test_declines(declined: Graph) -> None:
    assert everywhere(declined) is declined


def test_declines_where_nothing_gains() -> None:
    found = graph()
    assert cudnn_attention(found, fits=lambda *_: False) is found
