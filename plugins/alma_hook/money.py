"""Text to integer cents and back. No float ever touches an amount."""

from __future__ import annotations

import re
from decimal import Decimal

# Ten digits are more than any item type allows and keep sums far inside 64 bits.
_PLAIN = re.compile(r"([+-]?)(?:0*(\d{1,10})(?:\.(\d+))?|\.(\d+))", re.ASCII)


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


def amount(value: int) -> str:
    """Return cents as text with a point and two decimals: ``-1234`` becomes ``-12.34``."""
    if not isinstance(value, int):
        raise ValueError("cents are an integer")
    return f"{'-' if value < 0 else ''}{abs(value) // 100}.{abs(value) % 100:02d}"
