"""order: a lower peak or the graph itself; effects, results and text keep their meaning."""

import random
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from check import Check, assert_same_values

sys.path.insert(0, str(Path(__file__).parent.parent))

from random_graphs import random_graph

from lazytorch.errors import VerifyError
from lazytorch.ir import Builder, Graph, Item, Node, Write, input
from lazytorch.lower.prologue import split
from lazytorch.ops.elementary import Exp, Tanh
from lazytorch.ops.foreach import FLAT, Foreach
from lazytorch.ops.fused import Fused
from lazytorch.ops.linalg import Mm
from lazytorch.ops.pointwise import Add
from lazytorch.ops.random import Uniform
from lazytorch.ops.reduce import Softmax, Sum
from lazytorch.passes import check_signature, fuse
from lazytorch.passes.order import backwards, delayed, forwards, jobs_of, order
from lazytorch.peak import footprint, highest, returned
from lazytorch.straight import groups, written_straight
from lazytorch.text import parse
from lazytorch.types import tensor_type
from lazytorch.verify import verify


def graph(text: str) -> Graph:
    return parse(dedent(text))


def test_sums_come_before_the_next_large_value(check: Check) -> None:
    check(
        order,
        """
        graph(%x: f32[64, 64]) ordered {
          %0: f32[64, 64] = exp %x
          %1: f32[64, 64] = tanh %x
          %2: f32[64] = sum{dims=(0,)} %0
          %3: f32[64] = sum{dims=(0,)} %1
          return %2, %3
        }
        """,
        """
        graph(%x: f32[64, 64]) ordered {
          %0: f32[64, 64] = exp %x
          %1: f32[64] = sum{dims=(0,)} %0
          %2: f32[64, 64] = tanh %x
          %3: f32[64] = sum{dims=(0,)} %2
          return %1, %3
        }
        """,
    )


PROGRAM = """
    graph(%x: f32[64, 64]) ordered {
      %0: f32[64, 64] = exp %x
      %1: f32[64, 64] = tanh %x
      %2: f32[64] = sum{dims=(0,)} %0
      %3: f32[64] = sum{dims=(0,)} %1
      return %2, %3
    }"""


def test_a_stated_order_is_text_and_what_is_not_stated_is_the_old_one() -> None:
    stated = graph(PROGRAM)
    assert str(stated) == dedent(PROGRAM).strip()
    assert [x.op.name() for x in stated] == ["input", "exp", "tanh", "sum", "sum"]
    plain = Graph(stated.inputs, stated.outputs)
    assert [x.op.name() for x in plain] == ["input", "exp", "sum", "tanh", "sum"]
    assert stated != plain
    assert hash(stated) == hash(graph(PROGRAM))
    assert stated == graph(PROGRAM)


def test_a_lower_peak_is_found() -> None:
    stated = graph(PROGRAM)
    after = order(stated)
    assert footprint(stated).call == 2 * 16384 + 256
    assert footprint(after).call == 16384 + 2 * 256
    assert_same_values(stated, after)
    assert order(after) is after


def test_what_a_library_takes_meanwhile_decides_where_it_runs() -> None:
    stated = graph(
        """
        graph(%x: f32[64, 64], %y: f32[64, 256]) ordered {
          %0: f32[64, 64] = exp %x
          %1: f32[64, 64] = softmax{dim=1} %x
          %2: f32[64] = sum{dims=(0,)} %1
          %3: f32[64] = sum{dims=(0,)} %0
          %4: f32[64, 256] = tanh %y
          %5: f32[256] = sum{dims=(0,)} %4
          return %2, %3, %5
        }
        """
    )

    def takes(node: Node) -> int:
        return 10**5 if isinstance(node.op, Softmax) else 0

    after = order(stated, takes)
    assert footprint(stated, takes).call == 2 * 16384 + 10**5
    assert footprint(after, takes).call <= 16384 + 10**5 + 2048
    assert order(after, takes) is after
    assert_same_values(stated, after)


def test_the_elements_of_a_tuple_are_taken_right_behind_it() -> None:
    stated = graph(
        """
        graph(%x: f32[64, 64]) ordered {
          %0: (f32[64], i64[64]) = max_dim{dim=0} %x
          %1: f32[64] = item{index=0} %0
          %2: f32[64] = exp %1
          %3: f32[64, 64] = tanh %x
          %4: f32[64] = sum{dims=(0,)} %3
          %5: i64[64] = item{index=1} %0
          return %2, %4, %5
        }"""
    )
    after = order(stated)
    names = [x.op.name() for x in after]
    at = names.index("max_dim")
    assert names[at : at + 3] == ["max_dim", "item", "item"]
    assert_same_values(stated, after)
    assert order(after) is after


def test_a_tuple_and_its_elements_are_put_in_order_as_one() -> None:
    """Each element would else wait for all others: work by the square of their number."""
    count, b = 50, Builder()
    x = input("x", tensor_type(FLAT))
    xs = [input(f"x{i}", tensor_type((8, 8))) for i in range(count)]
    made = b(Foreach(Graph((x,), (b(Exp(), x),)), count), *xs)
    taken = [b(Sum((0,), False), b(Tanh(), b(Item(i), made))) for i in range(count)]
    before = Graph(tuple(xs), tuple(taken))
    jobs = jobs_of(before)
    assert len(jobs.units) == 1 + 2 * count
    assert sum(map(len, jobs.touches)) == 5 * count
    ran = [x for unit in jobs.units for x in unit]
    assert jobs.peak(range(len(jobs.units))) == highest(ran, returned(before))
    after = order(before)
    assert footprint(after).call < footprint(before).call
    assert_same_values(before, after)


def test_declines_where_no_order_has_a_lower_peak(check: Check) -> None:
    check.declines(order, "graph(%x: f32[4]) { %0 = exp %x %1 = tanh %x %2 = add %0 %1 return %2 }")
    check.declines(order, "graph(%x: f32[4]) { return %x }")
    check.declines(order, PROGRAM.replace("return %2, %3", "return %0, %1, %2, %3"))


def test_what_the_prologue_computes_is_not_moved(check: Check) -> None:
    check.declines(order, PROGRAM.replace("]) ordered", "] state) ordered"))


def drawing(reads: bool) -> Graph:
    """Two masks drawn first and read one after the other, as dropout's are."""
    b = Builder()
    x = input("x", tensor_type((64, 64), torch.float32))
    draws = [b(Uniform((64, 64), torch.float32, torch.device("cpu"))) for _ in range(2)]
    sums = [b(Sum((0,), False), b(Add(), x, draw)) for draw in draws]
    order = (*draws, *sums)
    write = b(Write(), x, b(Exp(), x)) if reads else None
    effects = (*draws, write) if write is not None else tuple(draws)
    return verify(Graph((x,), tuple(sums), effects, order=order))


@pytest.mark.parametrize("writes", [False, True])
def test_effects_keep_their_order_and_writes_come_last(writes: bool) -> None:
    before = drawing(writes)
    after = verify(order(before))
    assert footprint(after).call < footprint(before).call
    drawn = [x for x in after if x.op.effect and not isinstance(x.op, Write)]
    assert drawn == list(before.effects[:2])
    assert isinstance(after.nodes[-1].op, Write) == writes
    assert_same_values(before, after)


STEPS = """
    graph(%x: f32[64, 64], %p: f32[64, 64], %q: f32[64, 64]) {
      %a = mm %x %p
      %b = mm %a %q
      %s = sum{dims=(0, 1)} %a
      %t = sum{dims=(0, 1)} %b
      %c = mm %b MORE
      %3 = mul %a 0.5
      %4 = sub %p %3
      %5 = mul %c 0.5
      %6 = sub %q %5
      %7 = write %p %4
      %8 = write %q %6
      effects %7, %8
      return %s, %t
    }"""


@pytest.mark.parametrize("more", ["%x", "%p"])  # p's old value is read once or twice
def test_an_update_comes_at_once_but_after_who_reads_the_old_value(more: str) -> None:
    text = fuse(parse(dedent(STEPS).replace("MORE", more)))
    others = [x for x in text if isinstance(x.op, Sum | Mm)]
    updates = [x for x in text if isinstance(x.op, Fused)]
    before = verify(Graph(text.inputs, text.outputs, text.effects, order=(*others, *updates)))
    after = verify(order(before))
    ran = list(after.order)
    assert len(written_straight(after, groups(after))) == 2
    for update, target in zip(updates, text.inputs[1:], strict=True):
        needs = {*update.inputs, *[x for x in ran if target in x.inputs]} - {update}
        last_need = max(ran.index(x) for x in needs if x in ran)
        between = ran[last_need + 1 : ran.index(update)]
        assert last_need < ran.index(update) and set(between) <= set(updates)
    assert footprint(after).call < footprint(before).call
    assert order(after) is after
    assert_same_values(before, after)


def test_what_is_written_straight_takes_no_memory() -> None:
    text = """graph(%p: f32[64], %g: f32[64]) {
        %0 = mul %g 0.5  %1 = sub %p %0  %2 = write %p %1  effects %2  return RESULT }"""
    assert footprint(fuse(parse(text.replace("RESULT", "")))).call == 0
    assert footprint(fuse(parse(text.replace("RESULT", "%1")))).call == 64 * 4


def test_what_a_loss_takes_while_it_runs_counts() -> None:
    """The softmax of the logits comes after the loss, which takes as much while it runs."""
    text = """graph(%x: f32[64, 64], %w: f32[64, 64], %t: i64[64]) ordered {
        %0 = mm %x %w  %1 = softmax{dim=1} %0  %2 = cross_entropy_loss %0 %t
        %3 = sum{dims=(0,)} %1  return %2, %3 }"""
    before = graph(text)
    assert footprint(before).call == 3 * 64 * 64 * 4 + 4
    after = order(before)
    assert footprint(after).call == 2 * 64 * 64 * 4 + 4
    assert jobs_of(after).peak(range(4)) == footprint(after).call


def test_verify_refuses_an_order_that_is_not_the_one_in_which_nodes_run() -> None:
    stated = drawing(False)
    first, second, *_ = stated.order
    with pytest.raises(VerifyError, match="stated order"):
        verify(Graph(stated.inputs, stated.outputs, stated.effects, order=stated.order[::-1]))
    with pytest.raises(VerifyError, match="order of effects"):
        verify(Graph(stated.inputs, stated.outputs, stated.effects, order=(second, first)))


def test_a_rewrite_forgets_the_order_and_dead_nodes_are_not_kept() -> None:
    stated = graph(PROGRAM)
    again = stated.map(lambda x: Node(x.op, x.inputs, x.type) if x.inputs else x)
    assert not again.order
    less = Graph(stated.inputs, stated.outputs[:1], order=stated.order)
    assert [x.op.name() for x in less] == ["input", "exp", "sum"]


def test_the_main_graph_keeps_the_order_that_was_found() -> None:
    text = PROGRAM.replace("]) ordered", "], %w: f32[64] state) ordered").replace(
        "%0: f32[64, 64] = exp %x", "%4: f32[64] = exp %w\n      %0: f32[64, 64] = add %x %4"
    )
    after = order(graph(text))
    _, main = split(after)
    ran = [x.op.name() for x in main if x.inputs]
    assert ran == [x.op.name() for x in after.order]
    assert ran.index("sum") == 1


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_mean_the_same_and_never_take_more(seed: int) -> None:
    before, _ = random_graph(seed)
    shuffled = verify(Graph(before.inputs, before.outputs, order=tuple(shuffle(before, seed))))
    for program in (before, shuffled):
        after = verify(order(program))
        check_signature(program, after, "order")
        assert footprint(after).total <= footprint(program).total
        assert (by_jobs(after) < by_jobs(program)) == (after is not program)
        assert order(after) is after
        assert str(parse(str(after))) == str(after)
        assert_same_values(program, after)


def by_jobs(graph: Graph) -> int:
    """What is looked at: nothing counts as written over what dies, which an order may forbid."""
    jobs = jobs_of(graph)
    return jobs.peak(range(len(jobs.units)))


def shuffle(graph: Graph, seed: int) -> list[Node]:
    """A random order of the graph's nodes, operands first."""
    chosen = random.Random(seed)
    left = [x for x in graph if x.inputs]
    done: dict[Node, None] = {}
    while left:
        ready = [x for x in left if all(y in done or not y.inputs for y in x.inputs)]
        node = chosen.choice(ready)
        left.remove(node)
        done[node] = None
    return list(done)


@pytest.mark.parametrize("seed", range(20))
def test_heights_are_those_of_the_estimate(seed: int) -> None:
    before, _ = random_graph(seed)
    jobs = jobs_of(before)
    own = range(len(jobs.units))
    for way in (own, forwards(jobs, own), backwards(jobs, own), delayed(jobs, own)):
        assert sorted(way) == list(own)
        nodes = [x for i in way for x in jobs.units[i]]
        assert jobs.peak(list(way)) == highest(nodes, returned(before))


@pytest.mark.parametrize("seed", range(20))
def test_what_waits_for_its_reader_never_makes_more_alive(seed: int) -> None:
    before, _ = random_graph(seed)
    jobs = jobs_of(before)
    own = list(range(len(jobs.units)))
    late = delayed(jobs, own)
    place = {i: at for at, i in enumerate(late)}
    assert all(place[j] < place[i] for i in own for j in jobs.before[i])
    assert jobs.peak(late) <= jobs.peak(own)


def test_a_copy_of_what_is_kept_is_made_for_its_reader() -> None:
    """Further away than the windows around a peak reach."""
    between = "\n".join(f"%b{i + 1} = tanh %b{i}" for i in range(40))
    found = order(
        graph(f"""
    graph(%x: f32[4, 64], %w: f32[64, 4]) ordered {{
      %k = exp %x
      %p = permute{{perm=(1, 0)}} %k
      %c = reshape{{shape=(4, 64)}} %p
      %b0 = neg %k
      {between}
      %t = mm %c %w
      %r = add %b40 %k
      %s = mm %r %w
      return %s, %t
    }}
    """)
    )
    names = [x.op.name() for x in found.nodes if x.inputs]
    assert names.index("reshape") > names.index("tanh") + 40
