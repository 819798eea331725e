"""Text to integer cents and back. No float ever touches an amount."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal

#: How a file writes amounts, by example: what stands before thousands and before cents, and where an amount below
#: nought has its sign. Thousands need not be marked.
NumberFormat = Literal[
    "1234.56", "1234.56-", "(1234.56)",
    "1,234.56", "1,234.56-", "(1,234.56)",
    "1.234,56", "1.234,56-", "(1.234,56)",
]  # fmt: skip
PLAIN: NumberFormat = "1234.56"

# Ten digits are more than any item type allows and keep sums far inside 64 bits.
_PLAIN = re.compile(r"([+-]?)(?:0*(\d{1,10})(?:\.(\d+))?|\.(\d+))", re.ASCII)
# The whole and the decimals, by a format's marks.
_WRITTEN = {
    "1234.56": re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,2}))?"),
    "1,234.56": re.compile(r"([0-9]{1,10}|[0-9]{1,3}(?:,[0-9]{3}){1,3})(?:\.([0-9]{1,2}))?"),
    "1.234,56": re.compile(r"([0-9]{1,10}|[0-9]{1,3}(?:\.[0-9]{3}){1,3})(?:,([0-9]{1,2}))?"),
}


def cents(text: str | int | Decimal) -> int:
    """Return the integer cents of a plain decimal amount such as ``12.5``, ``-3`` or ``007.20``.

    Raises ``ValueError`` for a third decimal that is not zero, a thousands separator, an
    exponent, or anything else that is not a plain decimal. A ``float`` is refused outright.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | Decimal):
        raise ValueError(f"an amount must be text, not {type(text).__name__}")
    plain = format(text, "f") if isinstance(text, Decimal) else str(text).strip()
    match = _PLAIN.fullmatch(plain)
    if match is None:
        raise ValueError("not a plain amount with a decimal point, such as 12.50")
    sign, whole, fraction = match.group(1), match.group(2) or "0", match.group(3) or match.group(4) or ""
    if fraction[2:].strip("0"):
        raise ValueError("more than two decimals")
    value = int(whole) * 100 + int(fraction[:2].ljust(2, "0"))
    return -value if sign == "-" else value


def cents_as(text: str, number_format: NumberFormat) -> int:
    """Return the integer cents of an amount as a file writes it.

    Stricter than ``cents`` where a format has marks: at most two decimals, whole groups of three, no plus sign. So
    ``1,234`` is no amount as ``1.234,56``, nor ``1.250`` as ``1,234.56``. Raises ``ValueError`` for anything else.
    """
    if number_format == PLAIN:
        return cents(text)
    body = text.strip()
    if number_format[0] == "(":
        below = body[:1] == "(" and body[-1:] == ")"
        body = body[1:-1] if below else body
    elif number_format[-1] == "-":
        below = body[-1:] == "-"
        body = body.removesuffix("-")
    else:
        below = body[:1] == "-"
        body = body.removeprefix("-")
    match = _WRITTEN[number_format.strip("()-")].fullmatch(body)
    whole = re.sub("[.,]", "", match.group(1)) if match else ""
    if match is None or len(whole) > 10:
        raise ValueError(f"not an amount as {number_format}")
    value = int(whole) * 100 + int((match.group(2) or "").ljust(2, "0"))
    return -value if below else value


def amount(value: int) -> str:
    """Return cents as text with a point and two decimals: ``-1234`` becomes ``-12.34``."""
    if not isinstance(value, int):
        raise ValueError("cents are an integer")
    return f"{'-' if value < 0 else ''}{abs(value) // 100}.{abs(value) % 100:02d}"
