"""A campus for an Airflow elsewhere: what it hands over is what the package needs, and days do pass."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

from alma_hook import campus

ROOT = Path(__file__).resolve().parents[2]
LEDGER = {"conn_type": "postgres", "host": "postgres", "schema": "alma_ledger"}


def test_days_pass_and_the_settings_and_connections_are_handed_over(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "simulator",
        "days",
        "--work",
        tmp_path / "work",
        "--hand-over",
        tmp_path,
    ]
    command += ["--ledger", json.dumps(LEDGER), "--minutes", "0.01", "--students", "40", "--fees", "30"]
    with subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, text=True) as days:
        assert days.stdout is not None
        said = []
        for line in days.stdout:
            said.append(line)
            if line.startswith("day 2:"):
                break
        connections = json.loads((tmp_path / "connections.json").read_text())
        alma = connections["alma_default"]
        address = f"{alma['host']}:{alma['port']}/simulator/state"
        with urllib.request.urlopen(address, timeout=10) as reply:
            assert json.load(reply)["simulator"] is True
        days.send_signal(signal.SIGTERM)
        said += days.communicate(timeout=20)[0].splitlines()

    assert days.returncode == 0
    assert said[-1] == "simulator ended"
    assert "not Alma, not PeopleSoft" in said[0]
    assert any("2 are waived, 10 new" in line for line in said)
    settings = campus.load(tmp_path / "campus.toml")
    assert settings.live
    assert settings.alma_to_sis.schedule == settings.sis_to_alma.schedule == "*/5 * * * *"
    assert connections["alma_ledger"] == LEDGER
    assert set(connections) == {"alma_default", "alma_ledger", "sfs_sftp", "alma_export_sftp"}
    assert connections["sfs_sftp"]["extra"]["host_key"].startswith("ssh-ed25519 ")
    for name in ("campus.toml", "connections.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
