"""SFS files written out by hand, so that nothing of the reader is used to write them."""

from collections.abc import Callable

import pytest

Lines = list[tuple[str, int, str]]
FileOf = Callable[..., bytes]


@pytest.fixture
def default_file() -> FileOf:
    """``default_file([(EMPLID, cents, reference), ...], reversal=, item_type=)`` in the layout *default*."""

    def file_of(lines: Lines, *, reversal: bool = False, item_type: str = "300000000001") -> bytes:
        header = f"H{len(lines):010d}{_amount(sum(cents for _, cents, _ in lines))}LIB01USD11222026"
        details = [
            f"D{emplid:<11}{item_type}{_amount(cents)}{'Y' if reversal else 'N'}    11222026        LIB"
            f"{reference:<30}{'Library fee':<30}"
            for emplid, cents, reference in lines
        ]
        return "".join(f"{line:<124}\n" for line in [header, *details]).encode()

    return file_of


@pytest.fixture
def princeton_file() -> FileOf:
    """The same in the layout *princeton_libfines*: the total of credits is negative."""

    def file_of(lines: Lines, *, reversal: bool = False) -> bytes:
        total, mark = sum(cents for _, cents, _ in lines), "Y" if reversal else "N"
        rows = [f"{len(lines):010d} {f'-{_amount(total)[1:]}' if reversal else _amount(total)} LIB01 "]
        rows += [
            f"{emplid:<9} 240000012000      {_amount(cents)[1:]} {mark} {reference:<30} 112226 Overdue fine"
            for emplid, cents, reference in lines
        ]
        return "".join(f"{row}\n" for row in rows).encode()

    return file_of


def _amount(cents: int) -> str:
    return f"{cents // 100:013d}.{cents % 100:02d}"
