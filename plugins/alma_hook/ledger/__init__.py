"""The ledger: our own record of what was told to whom. This package is the only door to it."""

from alma_hook.ledger.store import Lease, Ledger, Row, Tx, instant, moment

__all__ = ["Lease", "Ledger", "Row", "Tx", "instant", "moment"]
