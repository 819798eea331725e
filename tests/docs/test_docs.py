"""What the docs say is what the code does, as far as it can be compared."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import sqlite3
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from alma_hook import __main__ as command_line
from alma_hook import campus, layouts
from alma_hook.ledger import Ledger, batches
from alma_hook.money import cents
from simulator import screenshots
from tests import docs_tables

ROOT = docs_tables.ROOT
PACKAGE = ROOT / "plugins" / "alma_hook"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("include/*/*.md"))]
HOW = ROOT / "docs" / "how-it-works.md"
OPERATIONS = ROOT / "docs" / "operations.md"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def everything() -> str:
    return "\n".join(map(text_of, PAGES))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def spans(text: str) -> set[str]:
    """What stands in backquotes, outside of blocks."""
    bare = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", bare)}


def commands() -> set[str]:
    (subparsers,) = (a for a in command_line._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return set(subparsers.choices)


# -- tables that follow from the code -------------------------------------------------------------------


@pytest.mark.parametrize("page", docs_tables.PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_tables_are_up_to_date(page):
    text = text_of(page)

    assert "<!-- table: " in text
    assert docs_tables.renewed(text) == text, "run: python -m tests.docs_tables"


def test_every_setting_has_a_meaning_and_no_other():
    keys = {key for key, _ in docs_tables.settings()}

    assert set(docs_tables.MEANINGS) == keys


def test_the_short_table_holds_every_setting_that_must_be_answered():
    needed = {key for key, info in docs_tables.settings() if info.is_required()}
    # Sections that may be left out.
    needed = {key for key in needed if not key.startswith(("sis_to_alma.items.", "opening."))}

    assert needed <= set(docs_tables.FIRST)
    assert set(docs_tables.FIRST) <= set(docs_tables.MEANINGS)


def test_the_generated_tables_hold_what_the_layouts_declare():
    tables = docs_tables.layout_tables(layouts.shipped())

    assert "| EMPLID | 2-12 | Alma user, by `emplid.source` | `012345678` |" in tables
    assert "| Amount | 29-43 | what the formula says is due, never negative | `000000000012.50` |" in tables


def test_the_layout_on_its_page_is_one(tmp_path):
    (block,) = blocks(ROOT / "docs" / "layouts.md", "toml")
    (tmp_path / "layouts").mkdir()
    (tmp_path / "layouts" / "state_u.toml").write_text(block)
    layout = layouts.load("state_u", tmp_path)

    assert layout.marks_credits
    assert layout.carries_reference
    assert set(docs_tables.FIELD_KEYS) == set(layouts.FieldLayout.model_fields)


def test_the_tests_that_the_docs_name_are_there():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of(ROOT / "docs" / "security.md"))

    assert len(named) > 8
    for path, name in named:
        assert f"def {name}(" in text_of(ROOT / path), name


# -- names ----------------------------------------------------------------------------------------------


def test_connection_ids_in_the_docs_are_those_of_the_code():
    named = set(re.findall(r"\b[a-z][a-z_]*_(?:default|sftp|ledger)\b", everything()))
    named |= {name.lower() for name in re.findall(r"AIRFLOW_CONN_([A-Z_]+)=", everything())}

    # The mail server's is Airflow's own name for it.
    ours = {name for name in campus.Connections().model_dump().values() if name}
    assert named == ours | {"smtp_default"}


def test_commands_in_the_docs_are_real():
    named = set(re.findall(r"python\s+-m\s+alma_hook\s+([a-z][a-z-]*)", everything()))

    assert named == commands()


def test_every_command_is_on_the_operations_page():
    for command in commands():
        assert f"| `python -m alma_hook {command} " in text_of(OPERATIONS) or (
            f"| `python -m alma_hook {command}` |" in text_of(OPERATIONS)
        )


def test_make_targets_in_the_docs_are_real():
    targets = set(re.findall(r"^([a-z-]+):.*## ", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", everything(), re.MULTILINE))

    assert {a or b for a, b in named} <= targets
    assert {"demo", "test"} <= {a or b for a, b in named}


def test_settings_in_the_docs_are_real():
    sections = {key.partition(".")[0] for key in docs_tables.MEANINGS if "." in key}
    named = {span.partition(" = ")[0] for span in spans(everything())}
    keys = {name for name in named if re.fullmatch(rf"(?:{'|'.join(sections)})(?:\.[a-z_]+)+", name)}

    assert keys <= set(docs_tables.MEANINGS)


def test_every_task_is_on_the_operations_page():
    dags = "\n".join(text_of(path) for path in ROOT.glob("dags/*.py"))
    missing = {
        task for task in re.findall(r'task_id="(\w+)"', dags) if f"`{task}`" not in text_of(OPERATIONS)
    }

    assert not missing


def _literal(node: ast.expr) -> str:
    """The words of a message, with ``...`` for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(part) if isinstance(part, ast.Constant) else "..." for part in node.values)
    return ""


def test_every_refusal_that_clearing_does_not_mend_is_on_the_operations_page():
    """Whoever reads a red task's log at night finds its words in a table."""
    said = [
        (path.name, _literal(node.args[0]))
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("NotPermitted", "SendingStopped", "LedgerError")
        and node.args
    ]
    tables = re.findall(r"^\| message says \|.*\n((?:\|.*\n)+)", text_of(OPERATIONS), re.MULTILINE)
    phrases = [row.split("|")[1].strip() for table in tables for row in table.splitlines()[1:]]
    missing = [
        (name, text)
        for name, text in said
        if not any(all(part.strip() in text for part in phrase.split("...")) for phrase in phrases)
    ]

    assert len(said) > 20
    assert missing == []


@each_page
def test_links_within_the_repository_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", text_of(linked), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


def test_each_picture_is_taken_by_make_screenshots_shown_and_small():
    images = ROOT / "docs" / "images"
    pictures = {file.name for file in images.iterdir()}
    assert pictures == {f"{name}.png" for name in screenshots.SHOTS}
    shown = re.findall(r"!\[[^]]+\]\((?:docs/)?images/([^)]+)\)", everything())
    assert set(shown) == pictures
    for file in images.iterdir():
        assert file.read_bytes().startswith(b"\x89PNG"), file.name
        assert file.stat().st_size < screenshots.MOST_BYTES, file.name


def test_what_a_dropped_in_package_imports_is_named():
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    needed = {re.split(r"[<>=!~\[]", requirement)[0] for requirement in project["dependencies"]}
    (line,) = re.findall(
        r"^pip install (apache-airflow-(?:.*\\\n)*.*)$", text_of(ROOT / "README.md"), re.MULTILINE
    )

    assert set(line.replace("\\\n", " ").split()) == needed - {"apache-airflow"}


# -- examples -------------------------------------------------------------------------------------------


def test_connections_are_json_of_known_types():
    readme = text_of(ROOT / "README.md")
    found = re.findall(r"(?:--conn-json|AIRFLOW_CONN_[A-Z_]+=)\s*'(\{.*?\})'", readme, re.DOTALL)
    found += [
        json.dumps(value)
        for block in blocks(ROOT / "README.md", "json")
        for value in json.loads(block).values()
    ]

    assert len(found) == 6
    for text in found:
        assert json.loads(text)["conn_type"] in {"alma", "sftp", "sqlite", "postgres"}


def test_settings_examples_are_accepted(tmp_path):
    shipped = tomllib.loads(text_of(ROOT / "include" / "campus.toml"))
    (block,) = blocks(ROOT / "docs" / "settings.md", "toml")
    example = tomllib.loads(block)
    for section in ("sfs", "sis_to_alma"):
        example[section] = {**shipped[section], **example[section]}

    checked = campus.Campus.model_validate({**shipped, **example})

    assert [row.term for row in checked.terms] == ["2267", "2273"]
    assert checked.sis_to_alma.items is not None


def test_the_shipped_settings_are_accepted():
    assert campus.load(ROOT / "include" / "campus.toml").live is False


def test_the_query_has_the_headings_that_the_shipped_settings_map():
    query = text_of(ROOT / "include" / "peoplesoft" / "paid_library_items.sql")
    headings = set(re.findall(r'AS "([^"]+)"', query))
    page = spans(text_of(ROOT / "include" / "peoplesoft" / "README.md"))
    mapped = set(campus.load(ROOT / "include" / "campus.toml").sis_to_alma.columns.values())

    assert headings == mapped
    assert mapped <= page


def test_the_query_of_items_has_the_headings_of_the_example():
    query = text_of(ROOT / "include" / "peoplesoft" / "library_items.sql")
    (block,) = blocks(ROOT / "docs" / "settings.md", "toml")
    mapped = set(tomllib.loads(block)["sis_to_alma"]["items"]["columns"].values())

    assert set(re.findall(r'AS "([^"]+)"', query)) == mapped
    assert mapped <= spans(text_of(ROOT / "include" / "peoplesoft" / "README.md"))


def test_the_query_of_applied_amounts_has_the_headings_of_its_example():
    readme = ROOT / "include" / "peoplesoft" / "README.md"
    shipped = tomllib.loads(text_of(ROOT / "include" / "campus.toml"))
    (block,) = blocks(readme, "toml")
    example = tomllib.loads(block)
    example["sis_to_alma"] = {**shipped["sis_to_alma"], **example["sis_to_alma"]}
    read = campus.Campus.model_validate({**shipped, **example}).sis_to_alma
    query = text_of(ROOT / "include" / "peoplesoft" / "applied_amounts.sql")

    assert read.one_list
    assert read.items is not None
    mapped = {*read.columns.values(), *read.items.columns.values()}
    assert set(re.findall(r'AS "([^"]+)"', query)) == mapped
    assert mapped <= spans(text_of(readme))


def test_sql_in_the_docs_runs_on_the_ledger(tmp_path):
    path = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}", "01CAMPUS_INST")
    ledger.migrate()
    ledger.close()
    statements = [
        statement
        for block in blocks(OPERATIONS, "sql")
        for statement in re.sub(r"--.*", "", block).split(";")
        if statement.strip()
    ]
    statements += re.findall(r'sqlite3 LEDGER "(.+?)"', text_of(ROOT / "README.md"))

    assert len(statements) >= 7
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_the_look_at_a_file_works_on_postgresql_too(postgres_url):
    (statement,) = re.findall(r'psql LEDGER -Atc "(.+?)"', text_of(ROOT / "README.md"))
    ledger = Ledger(postgres_url, "01CAMPUS_INST")
    ledger.migrate()
    ledger.close()
    engine = create_engine(postgres_url)

    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO batch_file VALUES ('01CAMPUS_INST', '000001', %s)", (b"H\xfc\nD",)
        )
        shown = connection.exec_driver_sql(statement).scalar()
    engine.dispose()
    assert shown == "H\xfc\nD"


def shell(block: str, home: Path) -> None:
    """Run the lines of a block that copy and remove; what installs needs a network."""
    block = re.sub(r"^(?:pip|python) (?:.*\\\n)*.*\n", "", block, flags=re.MULTILINE)
    subprocess.run(["sh", "-euc", block], cwd=ROOT, env={**os.environ, "AIRFLOW_HOME": str(home)}, check=True)


def test_an_upgrade_of_what_was_dropped_in_replaces_all_that_is_ours(tmp_path):
    (dropped_in,) = (block for block in blocks(ROOT / "README.md", "sh") if "cp -rn" in block)
    (upgrade,) = (block for block in blocks(OPERATIONS, "sh") if "cp -r " in block)
    shell(dropped_in, tmp_path)
    ours = [
        tmp_path / "plugins/alma_hook/campus.py",
        tmp_path / "include/sql/001_ledger.sql",
        tmp_path / "include/layouts/default.toml",
        *(tmp_path / "dags").glob("*.py"),
    ]
    theirs = [
        tmp_path / "include/campus.toml",
        tmp_path / "include/layouts/own.toml",
        tmp_path / "dags/own.py",
    ]
    gone = tmp_path / "plugins/alma_hook/gone.py"
    for file in (*ours, *theirs, gone):
        file.write_text("old")

    shell(upgrade, tmp_path)

    assert [file for file in ours if file.read_text() == "old"] == []
    assert [file for file in theirs if file.read_text() != "old"] == []
    assert not gone.exists()
    assert (tmp_path / "plugins/alma_hook/.airflowignore").exists()


def test_the_worked_example_follows_the_formula():
    rows = re.findall(
        r"^\| .+? \| (-?[\d.]+) \| (-?[\d.]+) \| (-?[\d.]+) \| (-?[\d.]+) \| (-?[\d.]+) \| (.+) \|$",
        text_of(HOW),
        re.MULTILINE,
    )

    assert len(rows) == 5
    charged = credited = 0
    for row in rows:
        balance, own_paid, c, k, due = map(cents, row[:5])
        assert (c, k) == (charged, credited), "what was sent before"
        assert due == balance - (c - k - own_paid)
        charged += max(due, 0)
        credited += max(-due, 0)
        kind = "charge" if due > 0 else "credit"
        assert row[5] == (f"{kind} {abs(due) // 100}.{abs(due) % 100:02d}" if due else "nothing")


# -- states and kinds -----------------------------------------------------------------------------------


def test_every_state_of_a_batch_and_a_payment_is_explained():
    rows = set(re.findall(r"^\| `(\w+)` \|", text_of(HOW), re.MULTILINE))

    assert {*batches.UNFINISHED, "delivered", "unconfirmed", "cancelled", "preview"} <= rows
    assert {"new", "posting", "unknown", "posted", "settled", "earlier"} <= rows


def patterns(node: ast.expr | None, constants: dict[str, str]) -> set[str]:
    """The texts that an expression may be, as regular expressions; nothing for what can't be told."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {re.escape(node.value)}
    if isinstance(node, ast.JoinedStr):
        parts = [re.escape(str(v.value)) if isinstance(v, ast.Constant) else r"\S+" for v in node.values]
        return {"".join(parts)}
    if isinstance(node, ast.IfExp):
        return patterns(node.body, constants) | patterns(node.orelse, constants)
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return {re.escape(constants[name])} if name in constants else set()


def constants_in(path: Path) -> dict[str, str]:
    return {
        node.targets[0].id: node.value.value
        for node in ast.parse(text_of(path)).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def kinds_in(path: Path, constants: dict[str, str]) -> set[str]:
    """Every kind of exception that a module may list."""
    tree = ast.parse(text_of(path))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("hold", "left_out_by", "first_charge_hold"):
            returned = [n.value for n in ast.walk(node) if isinstance(n, ast.Return)]
            found |= {p for value in returned for p in patterns(value, constants)}
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "Listed" and node.args:
            found |= patterns(node.args[0], constants)
        if name in ("_list", "list_all", "of_payment") and len(node.args) > 1:
            found |= patterns(node.args[1], constants)
        if name == "AccountReading":
            found |= {p for k in node.keywords if k.arg == "problem" for p in patterns(k.value, constants)}
            found |= {p for arg in node.args[3:4] for p in patterns(arg, constants)}
    return found


@cache
def kinds() -> set[str]:
    paths = sorted(PACKAGE.rglob("*.py"))
    constants = {name: text for path in paths for name, text in constants_in(path).items()}
    return {pattern for path in paths for pattern in kinds_in(path, constants)}


def explained() -> set[str]:
    """The first cells of the tables of exceptions."""
    section = text_of(HOW).partition("\n## Exceptions\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def test_every_kind_of_exception_is_explained():
    assert len(kinds()) > 25, "the kinds are no longer found in the code"
    unexplained = {k for k in kinds() if not any(re.fullmatch(k, row) for row in explained())}

    assert not unexplained


def test_no_other_kind_is_explained():
    stale = {row for row in explained() if not any(re.fullmatch(k, row) for k in kinds())}

    assert not stale
