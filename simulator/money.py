"""Text to integer cents and back. Nothing else in the simulator turns text into money."""

import re

_AMOUNT = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?")


def cents_of(text: str) -> int:
    """Cents of a decimal text such as ``5``, ``5.0`` or ``-5.05``.

    Digits after the second decimal must be noughts, since no client may pay a fraction of a cent.
    Raises ValueError on anything else (signs other than ``-``, exponents, separators, empty text).
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not an amount: {text!r}")
    sign, whole, fraction = match.group(1), match.group(2), match.group(3) or ""
    if fraction[2:].strip("0"):
        raise ValueError(f"more than two decimals: {text!r}")
    cents = int(whole) * 100 + int((fraction + "00")[:2])
    return -cents if sign else cents


def text_of(cents: int) -> str:
    """``1234`` cents as ``12.34``, always two decimals, no thousands separator."""
    whole, rest = divmod(abs(cents), 100)
    return f"{'-' if cents < 0 else ''}{whole}.{rest:02d}"


def number_of(cents: int) -> float:
    """The JSON number Alma shows for an amount; exact to the cent for amounts below 10**13."""
    return cents / 100
