"""The mark that a payment of ours carries in Alma.

Alma fills ``external_transaction_id`` for other people's payments too, so ours have to be told
apart by their form alone: a prefix, twelve characters that follow from the payment, and a check
character. Looking a key up in the ledger instead would fail exactly when the ledger is the thing
that is wrong.
"""

from __future__ import annotations

import hashlib
import re

PREFIX = "SFS"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FORM = re.compile(rf"{PREFIX}[0-9A-Z]{{13}}", re.ASCII)


def _check_character(text: str) -> str:
    """ISO 7064 MOD 37,36: finds every single wrong character, and nearly all swapped neighbours."""
    product = 36
    for character in text:
        total = (product + _ALPHABET.index(character)) % 36 or 36
        product = total * 2 % 37
    return _ALPHABET[(37 - product) % 36]


def external_id(institution: str, payment_key: str) -> str:
    """Return the 16-character ``external_transaction_id`` of a PeopleSoft payment."""
    number = int.from_bytes(hashlib.sha256(f"{institution}\n{payment_key}".encode()).digest()[:10])
    body = ""
    for _ in range(12):
        number, digit = divmod(number, 36)
        body += _ALPHABET[digit]
    return PREFIX + body + _check_character(PREFIX + body)


def in_text(text: str | None) -> str | None:
    """Return the first key of ours among a text's words, as it stands in a waiver's comment; ``None``: none."""
    return next((word for word in (text or "").split() if is_ours(word)), None)


def is_ours(text: str | None) -> bool:
    """Whether an ``external_transaction_id`` has the form of ours."""
    return text is not None and _FORM.fullmatch(text) is not None and _check_character(text[:-1]) == text[-1]
