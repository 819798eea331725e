-- What people were told: one message a cause, and again each day while it lasts.
-- cause: what kind of thing it is, subject: what it is about. over_at: when it was found to be over.

CREATE TABLE alert (
    institution TEXT NOT NULL,
    cause TEXT NOT NULL,
    subject TEXT NOT NULL,
    first_at TEXT NOT NULL,
    sent_at TEXT NOT NULL,
    times INTEGER NOT NULL,
    over_at TEXT,
    PRIMARY KEY (institution, cause, subject)
);
