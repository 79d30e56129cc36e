"""Graph to graph rewrites: same signature, same meaning, verified after each one.

A pass is a function `Graph -> Graph` that returns the same object when it finds nothing to do.
What it needs to know of a device or of a measurement is a keyword argument (`functools.partial`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from lazytorch.errors import VerifyError
from lazytorch.ir import Graph
from lazytorch.ops.library import Libraries
from lazytorch.passes.activations import activations
from lazytorch.passes.additive_masks import additive_masks
from lazytorch.passes.along_rows import along_rows
from lazytorch.passes.attention import attention
from lazytorch.passes.batch_norm_columns import batch_norm_columns
from lazytorch.passes.channel_means import channel_means
from lazytorch.passes.channels_last import channels_last_training
from lazytorch.passes.consecutive_rows import consecutive_rows
from lazytorch.passes.copies_in_kernels import copies_in_kernels
from lazytorch.passes.counting import counting
from lazytorch.passes.cse import cse
from lazytorch.passes.cudnn import cudnn
from lazytorch.passes.cudnn_attention import cudnn_attention
from lazytorch.passes.draws_in_kernels import draws_in_kernels
from lazytorch.passes.early_views import early_views
from lazytorch.passes.epilogues import epilogues
from lazytorch.passes.fold_batch_norm import fold_batch_norm
from lazytorch.passes.fold_constants import fold_constants
from lazytorch.passes.fuse import fuse, why_apart
from lazytorch.passes.grouped_heads import grouped_heads
from lazytorch.passes.horizontal import horizontal
from lazytorch.passes.known_masks import known_masks
from lazytorch.passes.late_casts import late_casts
from lazytorch.passes.late_factors import late_factors
from lazytorch.passes.layouts import layouts
from lazytorch.passes.mask_rows import mask_rows
from lazytorch.passes.merge_linears import merge_linears
from lazytorch.passes.numbers_on_device import numbers_on_device
from lazytorch.passes.order import order
from lazytorch.passes.outer_products import outer_products
from lazytorch.passes.own_convolutions import own_convolutions
from lazytorch.passes.pad_features import pad_features
from lazytorch.passes.pad_products import pad_products
from lazytorch.passes.patches import patches
from lazytorch.passes.pixels import pixels
from lazytorch.passes.pool_channels import pool_channels
from lazytorch.passes.pool_first import pool_first
from lazytorch.passes.pool_offsets import pool_offsets
from lazytorch.passes.post_ops import post_ops
from lazytorch.passes.rematerialize import Choose, rematerialize
from lazytorch.passes.row_products import row_products
from lazytorch.passes.scale_batch_norm import scale_batch_norm
from lazytorch.passes.select import grants, select
from lazytorch.passes.share_saved import share_saved
from lazytorch.passes.simplify import simplify
from lazytorch.passes.slices_of_joins import slices_of_joins
from lazytorch.passes.transient_weights import transient_weights
from lazytorch.passes.weight_patches import weight_patches
from lazytorch.peak import Scratch, scratch
from lazytorch.types import TensorType
from lazytorch.verify import signature, verify

Pass = Callable[[Graph], Graph]
Fits = Callable[[TensorType], bool]
Attends = Callable[[TensorType, TensorType], bool]
Memo = dict[tuple[int, object], tuple[Graph, Graph]]
"""Graphs before and after passes that were run, by the first graph's id and the pass."""

Observer = Callable[[str, Graph, Graph], None]
"""Called with a pass's name, the graph before it and the graph after it."""

REWRITES: tuple[Pass, ...] = (
    numbers_on_device,  # first: while numbers are read by what the user wrote
    fold_constants,  # before simplify: a tensor found to be all ones is a neutral operand there
    simplify,  # before cse: different spellings of one computation become the same
    consecutive_rows,  # after fold_constants: indices are literals; before cse: slices are equal
    known_masks,  # before share_saved: an attention and its derivative are changed alike
    share_saved,  # after simplify: operands are equal; before all that turns operations into others
    grouped_heads,  # after known_masks: the kernels that take groups take no mask
    layouts,  # after simplify: copies that only look like it are gone; before cse: views are equal
    cse,  # before fuse: a shared value must be one node, or fusion computes it twice
    late_casts,  # after cse: who reads a value is final; before along_rows: views are few
    additive_masks,  # after cse: layers share a mask only then
    along_rows,  # before fuse, which joins only what is in that form
)
"""What holds on every device and copies no weight."""

RECOGNIZED: tuple[Pass, ...] = (
    outer_products,  # before all that looks for arithmetic
    activations,  # after cse: two spellings of x are one value
    attention,
    layouts,  # again: attention reads rows with any distance between them, products did not
    simplify,  # after layouts: copies that only look like it
    cse,  # after attention: layers share what is made of a mask
    late_factors,  # after attention, which has scales of its own; after cse: readers are final
)
"""What is written out becomes operations that round less often than eager, on every device."""


def draws(resident: int, apart: frozenset[int] = frozenset()) -> tuple[Pass, ...]:
    """The passes before all others, while tensors lie as eager's do, which decides what is drawn
    for them; for a GPU that holds `resident` threads at once, and inputs that lie `apart`."""
    return (partial(draws_in_kernels, resident=resident, apart=apart),)


def default(again: Choose | None = None, takes: Scratch = scratch) -> tuple[Pass, ...]:
    """The passes without a library's calls, with what `again` chooses computed again; `takes` says
    what libraries allocate while they compute."""
    return (
        *REWRITES,
        scale_batch_norm,  # after the rewrites: a norm of constants is a constant
        copies_in_kernels,  # before fuse, which joins a clone with what it clones
        *repeated(again),
        fuse,  # after all others: it hides operations in bodies, where no other pass looks
        horizontal,  # after fuse: it joins whole groups
        # last: what runs is what is put in order, and a rewrite forgets the order
        partial(order, takes=takes),
    )


def repeated(again: Choose | None) -> tuple[Pass, ...]:
    """Right before fuse: what is kept and what is computed again is what runs, and joins what reads
    it."""
    computed = (partial(rematerialize, choose=again),) if again is not None else ()
    return (slices_of_joins, *computed)


DEFAULT: tuple[Pass, ...] = default()


def gpu_weights(fits: Fits) -> tuple[Pass, ...]:
    """The passes on a GPU that change weights of convolutions, after REWRITES; `fits` says which
    gain by cuDNN's layout."""
    return (
        fold_batch_norm,  # after cse: only then is the number of a convolution's readers final
        partial(patches, fits=fits),  # after fold; before cudnn: a product is no convolution
        partial(cudnn, fits=fits),  # after fold: a bias is what is left of the norm
        cse,  # a weight that several operations read is copied once
    )


def gpu_copies() -> tuple[Pass, ...]:
    """The passes on a GPU that copy other weights, after `gpu_weights`."""
    return (
        merge_linears,
        cse,  # a weight that several operations read is joined once
    )


def gpu_padding(fits: Fits) -> tuple[Pass, ...]:
    """The passes on a GPU that copy weights into larger ones, after `gpu_copies`; `fits` says which
    products tensor cores compute."""
    return (
        partial(pad_features, fits=fits),  # after merge_linears: the joined features are padded
        cse,  # a weight that several operations read is padded once
    )


def gpu_tables(fits: Fits) -> tuple[Pass, ...]:
    """The passes on a GPU that make tables of positions at every call, before `gpu_pipeline`;
    `fits` says which tensors lie there."""
    return (partial(counting, fits=fits, tables=True), cse)


def gpu_pipeline(
    fits: Fits,
    half: Fits,
    multiplies: Fits,
    attends: Attends,
    again: Choose | None = None,
    takes: Scratch = scratch,
) -> tuple[Pass, ...]:
    """The passes on a GPU that keep no copy of a weight; `fits` says where cuBLASLt has epilogues,
    `half` which convolutions and `multiplies` which products tensor cores compute, `attends` which
    attentions gain by cuDNN, and `takes` what libraries allocate while they compute."""
    return (
        partial(patches, fits=fits),  # no weight is copied; where copies are made, it ran before
        partial(channels_last_training, fits=half),
        batch_norm_columns,  # after channels_last_training, which says how channels lie
        partial(cudnn_attention, fits=attends),
        partial(grouped_heads, fits=attends),  # with masks, which no other kernel takes with groups
        partial(mask_rows, fits=fits),
        # weights that change from call to call, as in training
        partial(pad_features, fits=multiplies, steady=False),
        partial(pad_products, fits=multiplies),  # after pad_features: it reads padded weights
        cse,  # views of what was padded
        scale_batch_norm,  # after fold, if that ran: it takes the norms that are left
        partial(epilogues, fits=fits),  # before fuse: library calls are taken first
        # after all that looks at masks; before fuse: kernels compute what counts
        partial(counting, fits=fits),
        copies_in_kernels,  # before fuse, which joins a clone with what it clones
        # before what is computed again, which may be a pool
        *((partial(pool_offsets, fits=fits, choose=again),) if again is not None else ()),
        *repeated(again),
        fuse,
        horizontal,
        partial(order, takes=takes),  # last, as everywhere
    )


def pipeline(
    cpu: Libraries,
    freeze: bool,
    budget: int = 0,
    numerics: str = "fast",
    again: Choose | None = None,
) -> tuple[Pass, ...]:
    """The passes after REWRITES: with `freeze` weights are copied at will, else within `budget`."""
    return (
        # after cse: only then is the number of a convolution's readers final
        *((fold_batch_norm,) if freeze else ()),
        scale_batch_norm,  # after fold: it takes the norms that are left
        pixels,  # before select: what is a linear layer gets its weight packed as one
        # before fuse: library calls are taken first, fuse gets the rest
        partial(select, cpu=cpu, budget=None if freeze else budget),
        # after select, which leaves images channels last and these convolutions as they are
        *((own_convolutions,) if freeze else ()),
        cse,  # after select: what several operations read is packed once
        # before fuse, which gets the rest; in 16-bit types they round once where eager does twice
        *((pool_first, post_ops) if numerics == "fast" else ()),
        pool_channels,  # after select: it leaves images channels last where it can
        channel_means,  # after select, too; before fuse, which joins rows
        row_products,  # after select, which packs weights in 16 bits; before fuse, as above
        weight_patches,  # before fuse, which may take the copies that make patches
        early_views,  # after all that looks for arithmetic; before fuse, which joins it
        *repeated(again),
        fuse,
        horizontal,
        order,  # last, as everywhere
    )


def optimize(
    graph: Graph,
    passes: Sequence[Pass] = DEFAULT,
    observe: Observer | None = None,
    memo: Memo | None = None,
) -> Graph:
    """Run `passes` in order; VerifyError names the pass that broke the graph or its signature.

    What is in the `memo` is not run again.
    """
    memo = {} if memo is None else memo
    for rewrite in passes:
        name = pass_name(rewrite)
        key = (id(graph), identity(rewrite))
        after = memo[key][1] if key in memo else rewrite(graph)
        if after is not graph and key not in memo:
            check_signature(graph, verify(after, name, before=graph), name)
        memo[key] = graph, after
        if observe is not None:
            observe(name, graph, after)
        graph = after
    return graph


def check_signature(before: Graph, after: Graph, name: str) -> None:
    """VerifyError unless inputs, output types, aliases and the number of effects are the same."""
    if after.inputs != before.inputs or signature(after) != signature(before):
        raise VerifyError(
            f"{name} changed the graph's inputs, output types or aliases",
            {"before": signature(before), "after": signature(after)},
        )
    if len(after.effects) != len(before.effects):
        raise VerifyError(
            f"{name} changed the number of effects",
            {"before": len(before.effects), "after": len(after.effects)},
        )


def identity(rewrite: Pass) -> object:
    """The function with the arguments that were bound to it."""
    if isinstance(rewrite, partial):
        return identity(rewrite.func), rewrite.args, frozenset(rewrite.keywords.items())
    return rewrite


def pass_name(rewrite: Pass) -> str:
    """The function's name, also when keyword arguments were bound to it."""
    while isinstance(rewrite, partial):
        rewrite = rewrite.func
    return rewrite.__name__


__all__ = [
    "DEFAULT",
    "RECOGNIZED",
    "REWRITES",
    "Choose",
    "Memo",
    "Observer",
    "Pass",
    "activations",
    "additive_masks",
    "along_rows",
    "attention",
    "batch_norm_columns",
    "channel_means",
    "channels_last_training",
    "consecutive_rows",
    "copies_in_kernels",
    "counting",
    "cse",
    "cudnn",
    "cudnn_attention",
    "default",
    "draws",
    "draws_in_kernels",
    "early_views",
    "epilogues",
    "fold_batch_norm",
    "fold_constants",
    "fuse",
    "gpu_copies",
    "gpu_padding",
    "gpu_pipeline",
    "gpu_tables",
    "gpu_weights",
    "grants",
    "grouped_heads",
    "horizontal",
    "known_masks",
    "late_casts",
    "late_factors",
    "layouts",
    "mask_rows",
    "merge_linears",
    "numbers_on_device",
    "optimize",
    "order",
    "outer_products",
    "own_convolutions",
    "pad_features",
    "pad_products",
    "pass_name",
    "patches",
    "pipeline",
    "pixels",
    "pool_channels",
    "pool_first",
    "pool_offsets",
    "post_ops",
    "rematerialize",
    "row_products",
    "scale_batch_norm",
    "select",
    "share_saved",
    "simplify",
    "slices_of_joins",
    "transient_weights",
    "weight_patches",
    "why_apart",
]
