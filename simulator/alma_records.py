"""What Alma keeps: users, fees and the transactions on a fee. Amounts are integer cents, time is UTC."""

from dataclasses import dataclass, field
from datetime import datetime


class AlmaRefusal(Exception):
    """Alma will not do it. ``code`` is Alma's error code as text, ``message`` its sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


@dataclass
class Transaction:
    """One payment, waiver or export on a fee. On a CREDIT fee the amount is negative."""

    id: str
    kind: str
    amount_cents: int
    at: datetime
    created_by: str
    external_transaction_id: str | None = None
    received_by: str | None = None
    received_by_label: str | None = None
    method: str | None = None
    reason: str | None = None
    comment: str | None = None


@dataclass
class User:
    """A patron. ``identifiers`` maps the identifier's type to its value, besides the primary id."""

    primary_id: str
    user_group: str
    first_name: str
    last_name: str
    created_at: datetime
    modified_at: datetime
    identifiers: dict[str, str] = field(default_factory=dict)
    email: str | None = None
    purged: bool = False
    # Alma shows users whose record is gone as "no primary id (...)", linked to /users/-.
    pseudo: bool = False


@dataclass
class Fee:
    """A fine or fee. Always ``balance = original - sum(transactions)``; CLOSED at nought."""

    id: str
    user: User
    type: str
    status: str
    original_cents: int
    balance_cents: int
    owner: str
    creation_time: datetime
    status_time: datetime
    comment: str | None = None
    title: str | None = None
    barcode: str | None = None
    bursar_transaction_id: str | None = None
    transactions: list[Transaction] = field(default_factory=list)

    @property
    def paid_cents(self) -> int:
        """Everything that payments, waivers and exports have taken off the fee, in cents."""
        return sum(transaction.amount_cents for transaction in self.transactions)


@dataclass
class AlmaBehaviour:
    """Points on which Alma's documentation is silent, so a test can have it both ways.

    ``closed_fee_by_id_refused``: GET of a closed fee by its id answers 400 with the text
    "API does not support closed fees.", as one library's public client has it.
    ``fees_touch_users``: a new or changed fee changes the user's modification date.
    ``waive_comment_returned``: a waiver's comment comes back in the fee's transactions.
    ``transaction_ids``: transactions carry ``transaction_id`` (newer schema, absent in recordings).
    ``credit_waivable``: the CREDIT fee type is set to be waiveable.
    ``external_id_length``: Alma keeps only so many characters of an external_transaction_id (None: all).
    """

    closed_fee_by_id_refused: bool = True
    fees_touch_users: bool = True
    waive_comment_returned: bool = True
    transaction_ids: bool = False
    credit_waivable: bool = True
    external_id_length: int | None = None
