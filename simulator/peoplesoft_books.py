"""Adds up a business unit's items, postings and payments."""

from collections import defaultdict
from collections.abc import Collection, Iterable

from simulator.peoplesoft_records import Books, Item, Payment, Posting


def books_of(
    items: Iterable[Item],
    postings: Iterable[Posting],
    payments: Iterable[Payment],
    credit_item_types: Collection[str],
) -> Books:
    """Balances by reference and by EMPLID, in cents; credit items are credits, not payments."""
    balance: defaultdict[str, int] = defaultdict(int)
    person: defaultdict[str, int] = defaultdict(int)
    charged: defaultdict[str, int] = defaultdict(int)
    credited: defaultdict[str, int] = defaultdict(int)
    paid: defaultdict[str, int] = defaultdict(int)
    unapplied: defaultdict[str, int] = defaultdict(int)
    for item in items:
        balance[item.reference] += item.balance_cents
        person[item.emplid] += item.balance_cents
    for posting in postings:
        if not posting.reversed:
            side = charged if posting.cents > 0 else credited
            side[posting.reference] += abs(posting.cents)
    for payment in payments:
        if payment.item_type not in credit_item_types:
            paid[payment.reference] += payment.amount_cents
        if payment.unapplied_cents:
            unapplied[payment.emplid] += payment.unapplied_cents
            person[payment.emplid] -= payment.unapplied_cents
    return Books(dict(balance), dict(person), dict(charged), dict(credited), dict(paid), dict(unapplied))
