"""Alma's code tables as far as the simulator shows them: code -> label.

Codes are those seen in Alma's published schemas and in recorded answers; an institution may edit
its tables, so no client may treat them as closed lists.
"""

FEE_TYPES = {
    "OVERDUEFINE": "Overdue fine",
    "LOSTITEMREPLACEMENTFEE": "Lost item replacement fee",
    "LOSTITEMPROCESSFEE": "Lost item process fee",
    "RECALLEDOVERDUEFINE": "Recalled Overdue fine",
    "DAMAGEDITEMFINE": "Damaged item fine",
    "CARDRENEWAL": "Card renewal",
    "LOCKERKEY": "Locker key",
    "SERVICEFEE": "Service fee",
    "OTHER": "Other",
    "CREDIT": "Credit",
}
FEE_STATUSES = {
    "ACTIVE": "Active",
    "INDISPUTE": "In Dispute",
    "EXPORTED": "Transferred",
    "CLOSED": "Closed",
}
# Only PAYMENT is on record in JSON; the other codes are the simulator's guess and may differ.
TRANSACTION_TYPES = {
    "PAYMENT": "Payment",
    "WAIVE": "Waive",
    "EXPORT": "Export",
    "CREDIT": "Credit",
}
PAYMENT_METHODS = {"CREDIT_CARD": "Credit Card", "ONLINE": "Online", "CASH": "Cash"}
WAIVE_REASONS = {
    "OTHER": "Other",
    "LIBRARYERROR": "Library error",
    "RETURNED": "Lost item was returned",
    "GOODWILL": "Goodwill",
}
USER_GROUPS = {"UNDERGRAD": "Undergraduate", "GRADUATE": "Graduate", "STAFF": "Staff"}
LIBRARIES = {"MAIN": "Main Library", "LAW": "Law Library", "MUSIC": "Music Library"}
IDENTIFIER_TYPES = {"BARCODE": "Barcode", "INST_ID": "Institution ID"}

CODE_TABLES = {
    "FineFeeTransactionReason": WAIVE_REASONS,
    "HFrUserFinesFees.fineFeeType": FEE_TYPES,
    "HFrUserFinesFees.fineFeeStatus": FEE_STATUSES,
    "UserIdentifierTypes": IDENTIFIER_TYPES,
}
