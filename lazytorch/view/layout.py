"""Where the boxes of a picture go: modules folded into one another, each laid out in rows.

A module's direct children (its own boxes, and the modules inside it as one block each) are put in
rows by their depth, so that values flow downwards. That does not depend on what is unfolded: the
page only adds up the sizes of the blocks. Close to linear in boxes and edges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from lazytorch.view.scene import Scene

CROWDED = 300
"""Children beyond which a block's consecutive ones are put together, so that a page stays light."""
ABREAST = 8
"""Children side by side in one row."""


@dataclass(eq=False)
class Block:
    """A module, or a run of boxes of a crowded one; `first` is its first box."""

    name: str
    path: str
    children: list[Block | int] = field(default_factory=list["Block | int"])
    rows: list[list[Block | int]] = field(default_factory=list[list["Block | int"]])

    @property
    def first(self) -> int:
        """Number of the first box in it: its place in the order of execution."""
        child = self.children[0]
        return child if isinstance(child, int) else child.first


Edges = dict[tuple[Block | int, Block | int], None]
"""Pairs of children in the order in which they were found."""


def layout(scene: Scene) -> Block:
    """The root block, every block with its children in rows."""
    root = folded(scene)
    while scattered := set(heads_of_rings(scene, root)):
        for block in blocks(root):
            block.children = dissolved(block.children, scattered)
    for block in reversed(blocks(root)):
        while len(block.children) > CROWDED:
            block.children = runs(block)
    joined = edges_inside(scene, root)
    for block in blocks(root):
        block.rows = rows(block, joined[block])
    return root


def folded(scene: Scene) -> Block:
    """The blocks by module path; a module with a single box is just that box."""
    root = Block("", "")
    known = {"": root}
    for i, box in enumerate(scene.boxes):
        parent, path = root, ""
        for part in box.module.split(".") if box.module else ():
            path = f"{path}.{part}" if path else part
            if path not in known:
                known[path] = Block(part, path)
                parent.children.append(known[path])
            parent = known[path]
        parent.children.append(i)
    for block in reversed(blocks(root)):
        block.children = [simpler(child) for child in block.children]
    return root


def edges_inside(scene: Scene, root: Block) -> dict[Block, Edges]:
    """For each block the edges between its children that the edges between boxes make."""
    chains = ancestry(root)
    joined: dict[Block, Edges] = defaultdict(dict)
    for tail, head, _ in scene.edges:
        a, b = chains[tail], chains[head]
        depth = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x is not y)
        parent = a[depth - 1]
        assert isinstance(parent, Block)
        joined[parent][a[depth], b[depth]] = None
    return joined


def heads_of_rings(scene: Scene, root: Block) -> Iterator[Block]:
    """Modules without modules inside that values come back to: one `relu` called in many places."""
    for edges in edges_inside(scene, root).values():
        for tail, head in edges:
            if isinstance(head, Block) and all(isinstance(c, int) for c in head.children):
                start = tail.first if isinstance(tail, Block) else tail
                if start > head.first:
                    yield head


def dissolved(children: list[Block | int], scattered: set[Block]) -> list[Block | int]:
    """The children with the boxes of scattered blocks in the blocks' place."""
    found: list[Block | int] = []
    for child in children:
        found += child.children if isinstance(child, Block) and child in scattered else [child]
    return found


def simpler(child: Block | int) -> Block | int:
    """A block with one child is that child, under both names."""
    if isinstance(child, int) or len(child.children) > 1:
        return child
    only = child.children[0]
    if isinstance(only, Block):
        only.name = f"{child.name}.{only.name}"
    return only


def runs(block: Block) -> list[Block | int]:
    """A crowded block's children in consecutive runs."""
    made: list[Block | int] = []
    step = CROWDED // 3
    for start in range(0, len(block.children), step):
        part = block.children[start : start + step]
        name = f"{start + 1} to {start + len(part)}"
        made.append(Block(name, f"{block.path}[{name}]", part))
    return made


def blocks(root: Block) -> list[Block]:
    """Every block, outer ones first."""
    found = [root]
    for block in found:
        found += [child for child in block.children if isinstance(child, Block)]
    return found


def ancestry(root: Block) -> dict[int, list[Block | int]]:
    """For each box the blocks around it, outermost first, then the box."""
    chains: dict[int, list[Block | int]] = {}
    stack: list[list[Block | int]] = [[root]]
    while stack:
        chain = stack.pop()
        last = chain[-1]
        if isinstance(last, int):
            chains[last] = chain
        else:
            stack += [[*chain, child] for child in last.children]
    return chains


def rows(block: Block, edges: Edges) -> list[list[Block | int]]:
    """Children by depth; an edge against their order (a module run twice) is ignored."""
    start = {c: c if isinstance(c, int) else c.first for c in block.children}
    order = sorted(block.children, key=start.__getitem__)
    before: dict[Block | int, list[Block | int]] = {c: [] for c in order}
    after: dict[Block | int, list[Block | int]] = {c: [] for c in order}
    for tail, head in edges:
        if start[tail] < start[head]:
            before[head].append(tail)
            after[tail].append(head)
    depth: dict[Block | int, int] = {}
    for child in order:
        depth[child] = max((depth[x] + 1 for x in before[child]), default=0)
    for child in reversed(order):  # what depends on nothing stands right above its first reader
        if not before[child] and after[child]:
            depth[child] = min(depth[x] for x in after[child]) - 1
    levels: dict[int, list[Block | int]] = defaultdict(list)
    for child in order:
        levels[depth[child]].append(child)
    place: dict[Block | int, float] = {}
    made: list[list[Block | int]] = []
    for level in sorted(levels):
        row = sorted(
            levels[level], key=lambda c: middle([place[x] for x in before[c] if x in place])
        )
        place.update((child, (i + 0.5) / len(row)) for i, child in enumerate(row))
        made += [row[i : i + ABREAST] for i in range(0, len(row), ABREAST)]
    return made


def middle(places: list[float]) -> float:
    """Mean of some places across; the centre where there are none."""
    return sum(places) / len(places) if places else 0.5
