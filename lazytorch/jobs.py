"""What one call does, as numbers: jobs that an order is looked for, and the memory they touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lazytorch.ir import Const, Graph, Input, Item, Node, Write
from lazytorch.ops.offload import FromHost, Sent, ToHost
from lazytorch.peak import Owner, Scratch, given_room, made, nbytes, owners, returned, scratch
from lazytorch.straight import groups, root, written_straight


@dataclass(frozen=True)
class Jobs:
    """What one call does in the order given, as numbers, and the memory that it touches.

    Each is a node, followed by the elements of the tuple that it makes. A piece of memory is alive
    from the one that makes it to the last that reads or shows it. touches: for each. touched: by
    which. ends: whether it is freed. after: those that must come later. makes: bytes. updates:
    those that write into inputs. prompt: those that begin or end copies from and to the host.
    scratch: bytes that are taken while one runs.
    """

    units: list[list[Node]]
    size: list[int]
    ends: list[bool]
    touches: list[list[int]]
    touched: list[list[int]]
    makes: list[int]
    before: list[list[int]]
    after: list[list[int]]
    updates: list[int]
    prompt: list[int]
    scratch: list[int]

    def alone(self, i: int) -> int:
        """The bytes that a node needs in any order: what it makes, reads and shows."""
        return self.scratch[i] + sum(self.size[k] for k in self.touches[i])

    def peak(self, order: Sequence[int]) -> int:
        """The most bytes alive at once."""
        return max(self.heights(order), default=0)

    def heights(self, order: Sequence[int]) -> list[int]:
        """The bytes alive while each node of an order runs."""
        waiting = [len(x) for x in self.touched]
        now, found = 0, list[int]()
        for i in order:
            now += self.makes[i]
            found.append(now + self.scratch[i])
            for k in self.touches[i]:
                waiting[k] -= 1
                if not waiting[k] and self.ends[k]:
                    now -= self.size[k]
        return found


def movable(graph: Graph) -> list[Node]:
    """What may be put in order: all that runs at every call, but writes."""
    steady = graph.steady
    return [
        x for x in graph.nodes if x not in steady and not isinstance(x.op, Input | Const | Write)
    ]


def jobs_of(graph: Graph, takes: Scratch = scratch) -> Jobs:
    """What may be put in order, with what it touches and takes."""
    nodes = movable(graph)
    units: list[list[Node]] = []
    number: dict[Node, int] = {}
    for x in nodes:
        maker = made(x) if isinstance(x.op, Item) else x
        if maker is x or maker not in number or isinstance(maker.op, Item):
            number[x] = len(units)
            units.append([x])
        else:
            number[x] = number[maker]
            units[number[x]].append(x)
    pieces: dict[Owner, int] = {}
    jobs = Jobs(units, [], [], [], [], [], [], [[] for _ in units], [], [], [])
    straight = written_straight(graph, groups(graph))
    elsewhere = given_room(straight)
    follow = old_readers(straight, nodes)
    written = [x.inputs[1] for x in graph.effects if isinstance(x.op, Write)]
    kept = {owner for x in (*returned(graph), *written) for owner in owners(x)}
    drawn = [number[x] for x in graph.effects if x in number]
    follows = dict(zip(drawn[1:], drawn, strict=False))
    shown: dict[Node, tuple[Owner, ...]] = {}
    for i, (node, *_) in enumerate(units):
        for x in (node, *node.inputs):
            if x not in shown:
                shown[x] = owners(x)
        touched = [owner for x in (node, *node.inputs) for owner in shown[x]]
        if isinstance(node.op, Item):  # the tuple is held until its last element is taken
            touched += owners(made(node))
        jobs.touches.append([])
        jobs.scratch.append(takes(node))
        jobs.makes.append(0)
        for owner in dict.fromkeys(touched):
            if owner[0] not in number or owner in elsewhere or not nbytes(owner):
                continue
            k = pieces.setdefault(owner, len(pieces))
            if k == len(jobs.size):
                jobs.size.append(nbytes(owner))
                jobs.ends.append(owner not in kept)
                jobs.touched.append([])
            if owner[0] is node:
                jobs.makes[i] += jobs.size[k]
            jobs.touches[i].append(k)
            jobs.touched[k].append(i)
        needed = dict.fromkeys([number[x] for x in node.inputs if x in number])
        if i in follows:
            needed[follows[i]] = None
        if node in follow:
            needed |= dict.fromkeys([number[x] for x in follow[node]])
            jobs.updates.append(i)
        if isinstance(node.op, ToHost | Sent | FromHost):
            jobs.prompt.append(i)
        jobs.before.append(list(needed))
        for j in needed:
            jobs.after[j].append(i)
    return jobs


def old_readers(
    straight: Mapping[Node, Mapping[int, Node]], nodes: Sequence[Node]
) -> dict[Node, list[Node]]:
    """For each node that writes straight into inputs, those that read what was there before."""
    readers: dict[object, list[Node]] = {x: [] for into in straight.values() for x in into.values()}
    for node in nodes if readers else ():
        for x in {root(x) for x in node.inputs} & readers.keys():
            readers[x].append(node)
    return {
        node: [x for target in into.values() for x in readers[target] if x is not node]
        for node, into in straight.items()
    }
