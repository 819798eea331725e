"""The measurements still run, at a small size: what they come to is told by ``make bench``."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import books, files, pacing, report
from bench.far_alma import far_alma


def test_reading_and_posting_at_a_far_alma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ALMA_BENCH", "")  # taken back afterwards
    with far_alma() as far:
        users = [user for user, _ in far.fees(6)]
        assert len(pacing.read(far, 50, 0.01, users, tmp_path).arrived) == 6
        assert len(pacing.post(far, 50, 0.01, 4, tmp_path).arrived) == 8


def test_a_large_ledger(tmp_path: Path) -> None:
    took = books.run(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, 2000, 100)
    assert took.accounts == 50


def test_files_and_a_report() -> None:
    rows = [*files.measure(200), *report.measure(4000)]
    assert all(row.result > 0 for row in rows)
