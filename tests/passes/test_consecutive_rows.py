"""`consecutive_rows`: rows looked up one after the other are a slice of their table."""

import pytest
import torch
from check import Check
from torch import nn

import lazytorch as lt
from lazytorch.passes import consecutive_rows
from lazytorch.passes.consecutive_rows import known
from lazytorch.text import parse


def test_positions_are_a_slice(check: Check) -> None:
    check(
        consecutive_rows,
        """
        graph(%table: f32[9, 4], %x: f32[2, 3, 4]) {
          %0 = arange{start=2, end=5}
          %1 = reshape{shape=(1, 3)} %0
          %2 = embedding %table %1
          %3 = add %x %2
          return %3
        }
        """,
        """
        graph(%table: f32[9, 4], %x: f32[2, 3, 4]) {
          %0: f32[3, 4] = slice{dim=0, start=2, stop=5} %table
          %1: f32[1, 3, 4] = reshape{shape=(1, 3, 4)} %0
          %2: f32[2, 3, 4] = add %x %1
          return %2
        }
        """,
    )


def test_all_rows_are_the_table(check: Check) -> None:
    check(
        consecutive_rows,
        """
        graph(%table: f32[3, 4]) {
          %0 = literal{data=data(i64[3], (0, 1, 2))}
          %1 = index{which=(True,)} %table %0
          %2 = index_select{dim=0} %table %0
          %3 = add %1 %2
          return %3
        }
        """,
        """
        graph(%table: f32[3, 4]) {
          %0: f32[3, 4] = add %table %table
          return %0
        }
        """,
    )


def test_positions_of_a_batch_are_repeated(check: Check) -> None:
    check(
        consecutive_rows,
        """
        graph(%table: f32[9, 4], %x: f32[2, 3, 4]) {
          %0 = literal{data=data(i64[2, 3], (1, 2, 3, 1, 2, 3))}
          %1 = index{which=(True,)} %table %0
          %2 = add %x %1
          return %2
        }
        """,
        """
        graph(%table: f32[9, 4], %x: f32[2, 3, 4]) {
          %0: f32[3, 4] = slice{dim=0, start=1, stop=4} %table
          %1: f32[1, 3, 4] = reshape{shape=(1, 3, 4)} %0
          %2: f32[2, 3, 4]{0, 4, 1} = expand{shape=(2, 3, 4)} %1
          %3: f32[2, 3, 4] = add %x %2
          return %3
        }
        """,
    )


def test_rows_and_columns_that_go_on_are_a_part(check: Check) -> None:
    check(
        consecutive_rows,
        """
        graph(%mask: bool[4, 9, 2], %x: bool[3, 5, 2]) {
          %0 = literal{data=data(i64[3, 1], ((1,), (2,), (3,)))}
          %1 = arange{start=2, end=7}
          %2 = index{which=(True, True, False)} %mask %0 %1
          %3 = literal{data=data(i64[3, 5], ((4, 4, 4, 4, 4), (4, 4, 4, 4, 4), (4, 4, 4, 4, 4)))}
          %4 = index{which=(True, True)} %mask %0 %3
          %5 = bitwise_and %2 %4
          %6 = bitwise_and %5 %x
          return %6
        }
        """,
        """
        graph(%mask: bool[4, 9, 2], %x: bool[3, 5, 2]) {
          %0: bool[3, 9, 2] = slice{dim=0, start=1, stop=4} %mask
          %1: bool[3, 5, 2]{18, 2, 1} = slice{dim=1, start=2, stop=7} %0
          %2: bool[3, 9, 2] = slice{dim=0, start=1, stop=4} %mask
          %3: bool[3, 1, 2]{18, 2, 1} = slice{dim=1, start=4, stop=5} %2
          %4: bool[3, 5, 2]{18, 0, 1} = expand{shape=(3, 5, 2)} %3
          %5: bool[3, 5, 2] = bitwise_and %1 %4
          %6: bool[3, 5, 2] = bitwise_and %5 %x
          return %6
        }
        """,
    )


@pytest.mark.parametrize("reader", ["softmax{dim=1}", "reshape{shape=(24,)}"])
def test_repeated_rows_that_more_than_arithmetic_reads_are_copied(reader: str) -> None:
    graph = parse(f"""
    graph(%table: f32[9, 4]) {{
      %0 = literal{{data=data(i64[2, 3], (1, 2, 3, 1, 2, 3))}}
      %1 = embedding %table %0
      %2 = {reader} %1
      %3 = exp %1
      return %2, %3
    }}
    """)
    assert consecutive_rows(graph) is graph


def test_repeated_rows_that_are_a_result_are_copied(check: Check) -> None:
    check.declines(
        consecutive_rows,
        """
        graph(%table: f32[9, 4]) {
          %0 = literal{data=data(i64[2, 2], (1, 2, 1, 2))}
          %1 = embedding %table %0
          %2 = add %1 1.0
          return %1, %2
        }
        """,
    )


@pytest.mark.parametrize(
    "lookup",
    [
        "%0 = arange{start=0, end=6, step=2}\n%1 = embedding %table %0",
        "%0 = arange{start=-3, end=-1}\n%1 = index{which=(True,)} %table %0",
        "%0 = arange{start=7, end=10}\n%1 = embedding %table %0",  # an error, and the call's
        "%0 = arange{start=0, end=4}\n%1 = reshape{shape=(2, 2)} %0\n%2 = embedding %table %1",
        "%0 = literal{data=data(i64[3], (0, 2, 1))}\n%1 = embedding %table %0",
        "%0 = arange{start=0, end=3}\n%1 = index_select{dim=1} %table %0",
        "%0 = arange{start=0, end=3}\n%1 = index{which=(False, True)} %table %0",
        "%0 = arange{start=0, end=0}\n%1 = embedding %table %0",
        # along one dimension both, and in another order
        "%0 = arange{start=0, end=3}\n%1 = index{which=(True, True)} %table %0 %0",
        "%0 = arange{start=0, end=3}\n%1 = arange{start=0, end=2}\n%2 = reshape{shape=(2, 1)} %1\n"
        "%3 = index{which=(True, True)} %table %0 %2",
    ],
)
def test_other_rows_are_looked_up(lookup: str) -> None:
    last = lookup.count("\n")
    graph = parse(f"graph(%table: f32[9, 4]) {{\n{lookup}\nreturn %{last}\n}}")
    assert consecutive_rows(graph) is graph


def test_a_transposed_table_is_looked_up(check: Check) -> None:
    """A lookup's result is contiguous."""
    check.declines(
        consecutive_rows,
        """
        graph(%x: f32[4, 9]) {
          %0 = permute{perm=(1, 0)} %x
          %1 = arange{start=0, end=3}
          %2 = embedding %0 %1
          return %2
        }
        """,
    )


def test_rows_of_a_table_that_is_written_are_read_before(check: Check) -> None:
    check.declines(
        consecutive_rows,
        """
        graph(%table: f32[9, 4]) {
          %0 = arange{start=0, end=9}
          %1 = embedding %table %0
          %2 = mul %table 2.0
          %3 = write %table %2
          effects %3
          return %1
        }
        """,
    )


def test_a_table_without_dimensions_has_no_rows(check: Check) -> None:
    check.declines(
        consecutive_rows,
        """
        graph(%x: f32[]) {
          %0 = arange{start=0, end=1}
          %1 = index_select{dim=0} %x %0
          return %1
        }
        """,
    )


def test_indices_that_are_an_input_are_not_known() -> None:
    graph = parse("graph(%x: i64[3]) {\nreturn %x\n}")
    assert known(graph.outputs[0]) is None


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.table(torch.arange(x.shape[1])[None])
        return x + rows, rows


def test_a_result_that_is_a_slice_has_memory_of_its_own() -> None:
    net, x = Positions(), torch.randn(2, 7, 5)
    fast = lt.compile(net, wait=True)
    with torch.no_grad():
        for _ in range(3):
            total, rows = fast(x)
            torch.testing.assert_close(total, net(x)[0])
            rows.zero_()
            net.table.weight.mul_(1.5)


def test_a_table_is_trained() -> None:
    net, x = Positions(), torch.randn(2, 7, 5)
    fast = lt.compile(net, wait=True)
    (want,) = torch.autograd.grad(net(x)[0].square().sum(), net.table.weight)
    (got,) = torch.autograd.grad(fast(x)[0].square().sum(), net.table.weight)
    torch.testing.assert_close(got, want)
