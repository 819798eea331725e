"""One import name, three ways of installing: dropped into an AIRFLOW_HOME, a wheel, an editable checkout.

Each way is tried in a process of its own, so that nothing this test run has imported can help.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
DAGS = {"alma_to_sis", "sis_to_alma"}

# What an Airflow process sees after its plugin scan, as JSON on the last line.
LOOK = textwrap.dedent("""
    import json, sys, warnings
    from pathlib import Path

    warnings.simplefilter("ignore")
    dags_folder, plugins_folder = (Path(argument).resolve() for argument in sys.argv[1:])

    from airflow import plugins_manager

    if hasattr(plugins_manager, "get_import_errors"):
        plugins_manager._get_plugins()
        plugin_errors = plugins_manager.get_import_errors()
    else:  # before Airflow 3.2
        plugins_manager.ensure_plugins_loaded()
        plugin_errors = plugins_manager.import_errors

    strays = {
        name: module.__file__
        for name, module in list(sys.modules.items())
        if getattr(module, "__file__", None)
        and plugins_folder in Path(module.__file__).resolve().parents
        and name.partition(".")[0] != "alma_hook"
    }

    import alma_hook
    from airflow.providers_manager import ProvidersManager

    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # before Airflow 3.2
        from airflow.models.dagbag import DagBag

    bag = DagBag(dags_folder)
    hooks = ProvidersManager().hooks
    hook = hooks["alma"] if "alma" in hooks else None
    print()
    print(json.dumps({
        "plugin_errors": {str(name): str(error) for name, error in plugin_errors.items()},
        "strays": strays,
        "package": str(Path(alma_hook.__file__).resolve().parent),
        "dags": sorted(bag.dag_ids),
        "dag_errors": {str(name): error for name, error in bag.import_errors.items()},
        "hook": hook.hook_class_name if hook else None,
    }))
""")


def run(python: Path, home: Path, *arguments: str, **variables: str) -> str:
    """Run a Python of our choice as an Airflow process of `home` would run, and return what it printed."""
    strange = ("AIRFLOW", "ALMA_", "PYTHONPATH", "PYTEST")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
    environment |= {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **variables}
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [python, "-P", *arguments], env=environment, cwd=home, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def look(python: Path, home: Path, dags: Path) -> dict[str, object]:
    seen = run(python, home, "-c", LOOK, str(dags), str(home / "plugins"))
    return json.loads(seen.splitlines()[-1])


@pytest.fixture
def other_environment(tmp_path: Path) -> Path:
    """A Python that has everything this one has, except this project."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    there = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        ours = "alma_sfs_dags" in installed.name or installed.name == "alma_hook"
        if not ours and not (there / installed.name).exists():
            (there / installed.name).symlink_to(installed)
    return python


@pytest.fixture
def dropped_in(tmp_path: Path) -> Path:
    """An AIRFLOW_HOME with the three folders copied into it."""
    home = tmp_path / "airflow"
    for folder in ("plugins", "dags", "include"):
        made = shutil.ignore_patterns("__pycache__", ".*_cache")
        shutil.copytree(ROOT / folder, home / folder, ignore=made)
    return home


def test_dropped_into_an_airflow_home(other_environment, dropped_in):
    seen = look(other_environment, dropped_in, dropped_in / "dags")

    assert seen["plugin_errors"] == {}
    assert seen["strays"] == {}, "Airflow's plugin scan executed modules of the package as top-level modules"
    assert seen["package"] == str(dropped_in / "plugins" / "alma_hook")
    assert seen["dag_errors"] == {}
    assert set(seen["dags"]) >= DAGS
    assert seen["hook"] is None, "Airflow finds a connection type in installed distributions only"


def test_the_command_line_sees_a_connection_made_in_airflow_s_pages(other_environment, dropped_in):
    """Those lie in Airflow's own database, as those of `airflow connections add` do."""
    ledger = dropped_in / "ledger.db"
    connection = json.dumps({"conn_type": "sqlite", "host": str(ledger)})
    run(other_environment, dropped_in, "-m", "airflow", "db", "migrate")
    add = ("-m", "airflow", "connections", "add", "alma_ledger", "--conn-json", connection)
    run(other_environment, dropped_in, *add)

    plugins = str(dropped_in / "plugins")
    said = run(other_environment, dropped_in, "-m", "alma_hook", "migrate", PYTHONPATH=plugins)

    assert "The ledger is up to date" in said
    assert ledger.exists()


def test_the_plugin_scan_executes_what_is_not_ignored(other_environment, dropped_in):
    """So the test above tests something."""
    for ignore in dropped_in.glob("plugins/**/.airflowignore"):
        ignore.unlink()
    (dropped_in / "plugins" / "alma_hook" / "__main__.py").unlink()  # executed, it would end the process

    seen = look(other_environment, dropped_in, dropped_in / "dags")

    assert "errors" in seen["strays"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_all_that_stands_beside_plugins(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())

    for source, inside in (("include", "alma_hook/include"), ("dags", "alma_hook/include/dags")):
        for path in (ROOT / source).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert f"{inside}/{path.relative_to(ROOT / source).as_posix()}" in names
    assert not [name for name in names if name.endswith((".pyc", ".db"))]
    assert not [name for name in names if not name.startswith(("alma_hook/", "alma_sfs_dags-"))]


def test_installed_as_a_wheel(wheel, other_environment, tmp_path):
    command = [find_uv_bin(), "pip", "install", "--quiet", "--offline", "--no-deps", "--no-config"]
    subprocess.run([*command, "--python", other_environment, wheel], check=True)
    campus = tmp_path / "campus"
    home = tmp_path / "airflow"

    run(other_environment, home, "-m", "alma_hook", "init", str(campus))
    seen = look(other_environment, home, campus)

    assert list(campus.rglob("campus.toml"))
    assert seen["plugin_errors"] == {}
    assert Path(str(seen["package"])).is_relative_to(other_environment.parents[1].resolve())
    assert seen["dag_errors"] == {}
    assert set(seen["dags"]) >= DAGS
    assert seen["hook"] == "alma_hook.hook.AlmaHook"


def test_installed_from_a_checkout_in_editable_mode(tmp_path):
    seen = look(Path(sys.executable), tmp_path / "airflow", ROOT / "dags")

    assert seen["plugin_errors"] == {}
    assert seen["package"] == str(ROOT / "plugins" / "alma_hook")
    assert seen["dag_errors"] == {}
    assert set(seen["dags"]) >= DAGS
    assert seen["hook"] == "alma_hook.hook.AlmaHook"
