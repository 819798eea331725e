"""What docker-compose.yaml promises, as far as it can be seen without a Docker engine."""

from __future__ import annotations

import base64
import re
import subprocess
from typing import Any

import pytest
import yaml

from tests import compose
from tests.docs_tables import ROOT

FILE = compose.load()
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
#: They end by themselves.
ONCE = {"airflow-init", "demo-init"}
NO_SECRET = {
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",
    "AIRFLOW__SECRETS__BACKEND",
    "AIRFLOW__SECRETS__BACKEND_KWARGS",
}

each_service = pytest.mark.parametrize("name", SERVICES)


def secrets(service: dict[str, Any]) -> dict[str, str]:
    """Name within the container -> name in the file."""
    given = [each if isinstance(each, dict) else {"source": each} for each in service.get("secrets", [])]
    return {each.get("target", each["source"]): each["source"] for each in given}


def volumes(service: dict[str, Any]) -> set[str]:
    return {volume.split(":")[0] for volume in service.get("volumes", [])}


@each_service
def test_nobody_is_root_or_can_become_it(name: str) -> None:
    service = SERVICES[name]

    user, group = service["user"].split(":")
    assert int(user) > 0
    assert group.isdecimal()
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "devices", "network_mode"} & set(service)
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))


@each_service
def test_what_runs_for_long_is_watched_and_starts_again(name: str) -> None:
    service = SERVICES[name]

    assert ("healthcheck" in service) is (name not in ONCE)
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    assert service["logging"]["options"]["max-size"]


@each_service
def test_who_waits_for_whom(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert how["condition"] == ("service_completed_successfully" if other in ONCE else "service_healthy")
        assert SERVICES[other]["profiles"] == SERVICES[name]["profiles"]


def test_a_campus_and_the_demo_have_the_same_parts() -> None:
    parts = {profile: set() for profile in ("campus", "demo")}
    for name, service in SERVICES.items():
        [profile] = service["profiles"]
        parts[profile].add(name.removeprefix("demo-").removeprefix("airflow-"))

    assert parts["campus"] == {
        *("postgres", "redis", "init", "api-server", "scheduler", "dag-processor", "triggerer", "worker")
    }
    assert parts["demo"] == {*parts["campus"], "simulator"}


def test_a_campus_and_the_demo_share_nothing() -> None:
    for kind in ("networks", "secrets", "volumes"):
        used: dict[str, set[str]] = {"campus": set(), "demo": set()}
        for service in SERVICES.values():
            [profile] = service["profiles"]
            used[profile] |= {
                "networks": set(service["networks"]),
                "secrets": set(secrets(service).values()),
                "volumes": {name for name in volumes(service) if not name.startswith(".")},
            }[kind]
        assert used["campus"]
        assert used["demo"]
        assert not used["campus"] & used["demo"], kind
        assert used["campus"] | used["demo"] == set(FILE[kind])


def test_names_mean_the_same_to_both() -> None:
    """What a campus's containers call by a service's name is an alias on the demo's network."""
    aliases = {
        alias
        for service in SERVICES.values()
        if service["profiles"] == ["demo"] and isinstance(service["networks"], dict)
        for alias in service["networks"]["demo"]["aliases"]
    }

    assert aliases == {"postgres", "redis", "api-server", "simulator"}


def test_secrets_are_files_and_none_has_a_default_but_the_demos() -> None:
    for name, source in FILE["secrets"].items():
        assert set(source) == {"file"}
        assert source["file"] == ("./simulator/demo_secret" if name == "demo" else f"./secrets/{name}")
    tracked = subprocess.run(
        ["git", "ls-files", "secrets", ".env"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert tracked.stdout == ""
    ignored = subprocess.run(
        ["git", "check-ignore", "secrets/fernet_key", ".env"], cwd=ROOT, capture_output=True
    )
    assert len(ignored.stdout.splitlines()) == 2


@each_service
def test_no_secret_stands_in_an_environment(name: str) -> None:
    for key, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|KEY|TOKEN|SQL_ALCHEMY_CONN|BROKER_URL", key):
            assert "/run/secrets/" in value or key in NO_SECRET, key
        assert "AIRFLOW_CONN" not in key


@each_service
def test_every_secret_that_is_read_is_there(name: str) -> None:
    service = SERVICES[name]
    read = set(re.findall(r"/run/secrets/(\w+)", yaml.safe_dump(service, width=10_000)))

    assert read <= set(secrets(service))


def test_the_demos_secret_serves_wherever_it_is_used() -> None:
    secret = (ROOT / "simulator" / "demo_secret").read_text().strip()

    assert len(base64.urlsafe_b64decode(secret)) == 32
    assert base64.urlsafe_b64decode(secret) == b"the-demo-has-no-secrets-at-all!!"


def test_only_the_pages_can_be_reached_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert set(published) == {"api-server", "demo-api-server"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_workers_can_be_as_many_as_wanted_and_have_no_disk_in_common_but_the_logs() -> None:
    for prefix in ("", "demo-"):
        worker = SERVICES[f"{prefix}worker"]
        assert not {"container_name", "ports", "hostname"} & set(worker)
        shared = volumes(worker) - {"./include"}
        assert shared == {f"{prefix}logs", f"{prefix}private"}
        assert [mount.split(":")[0] for mount in worker["tmpfs"]] == ["/tmp"]
        # Nobody but the pages needs to write there.
        private = [volume for volume in worker["volumes"] if volume.startswith(f"{prefix}private:")]
        assert private == [f"{prefix}private:/opt/airflow/private:ro"]


def test_what_must_outlive_a_container_has_a_volume_with_a_name() -> None:
    assert volumes(SERVICES["postgres"]) == {"postgres"}
    assert {"logs", "private"} <= volumes(SERVICES["api-server"])
    # The demo's money is gone with its simulated campus: an older ledger would not fit the next one.
    assert volumes(SERVICES["demo-postgres"]) == set()
    assert SERVICES["demo-postgres"]["environment"]["PGDATA"].startswith("/tmp/")


def test_every_image_has_a_version() -> None:
    version = re.search(r'__version__ = "(.+)"', (ROOT / "plugins/alma_hook/__init__.py").read_text())
    assert version
    for service in SERVICES.values():
        image, _, tag = service["image"].partition(":")
        assert tag
        assert tag != "latest"
        if image == "alma-sfs-dags":
            assert tag == version[1]


def test_a_variable_that_compose_would_fill_in_is_noticed() -> None:
    with pytest.raises(ValueError, match="PASSWORD"):
        compose.interpolated({"environment": ["A=${PASSWORD:-secret}"]})
    assert compose.interpolated(["$$HOME costs 5$$"]) == ["$HOME costs 5$"]
