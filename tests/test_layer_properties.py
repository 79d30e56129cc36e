"""What passes on layers must keep: meaning, signature, and rest once they have run."""

import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "passes"))

from check import assert_same_values
from layer_graphs import layer_graph

from lazytorch.ops.library import libraries
from lazytorch.passes import (
    RECOGNIZED,
    REWRITES,
    Pass,
    activations,
    attention,
    check_signature,
    epilogues,
    gpu_copies,
    gpu_pipeline,
    gpu_weights,
    layouts,
    merge_linears,
    optimize,
    pad_features,
    pass_name,
    patches,
    pipeline,
)
from lazytorch.verify import verify

CLOSE = 1e-9  # the graphs are in float64


def everywhere(_: object) -> bool:
    """A GPU's library calls run by parts off the GPU."""
    return True


@pytest.mark.parametrize(
    "rewrite",
    [
        activations,
        attention,
        layouts,
        merge_linears,
        partial(patches, fits=everywhere),
        partial(pad_features, fits=everywhere, smallest=0),
        partial(epilogues, fits=everywhere),
    ],
    ids=pass_name,
)
def test_a_pass_on_layers_keeps_their_meaning(rewrite: Pass) -> None:
    changed = 0
    for seed in range(40):
        graph = optimize(layer_graph(seed), [p for p in REWRITES if p is not rewrite])
        after = verify(rewrite(graph), after=pass_name(rewrite))
        check_signature(graph, after, pass_name(rewrite))
        assert_same_values(graph, after, close=CLOSE, seed=seed)
        assert rewrite(after) is after, "a second run still finds something to do"
        changed += after is not graph
    assert changed >= 5, "the graphs give it nothing to do"


@pytest.mark.parametrize("seed", range(60, 80))
def test_the_order_of_a_gpu_keeps_the_meaning_of_layers(seed: int) -> None:
    graph = layer_graph(seed)
    padding = partial(pad_features, fits=everywhere, smallest=0)
    order = (
        *REWRITES,
        *RECOGNIZED,
        *gpu_weights(everywhere),
        *gpu_copies(),
        padding,
        *gpu_pipeline(everywhere, everywhere, everywhere, everywhere),
    )
    assert_same_values(graph, optimize(graph, order), close=CLOSE, seed=seed)


@pytest.mark.parametrize("seed", range(90, 100))
def test_frozen_weights_keep_the_meaning_of_layers(seed: int) -> None:
    graph = layer_graph(seed)
    order = (*REWRITES, *RECOGNIZED, *pipeline(libraries(), freeze=True))
    assert_same_values(graph, optimize(graph, order), close=CLOSE, seed=seed)
