"""The tasks' account in PostgreSQL: it reads and writes rows, and changes no table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import create_engine, make_url

from alma_hook.errors import AlmaHookError
from tests.conftest import MakeBridge

ROLE = "fee_tasks"


@pytest.fixture
def as_owner(postgres_url: str) -> Iterator[str]:
    """A database in which there is an account for the tasks, without a right to anything yet."""
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {ROLE} LOGIN")
    yield postgres_url
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {ROLE}")
        connection.exec_driver_sql(f"DROP ROLE {ROLE}")
    engine.dispose()


def test_four_rights_are_enough_for_both_ways_and_no_table_can_be_changed(
    as_owner: str, make_bridge: MakeBridge
) -> None:
    bridge = make_bridge(url=as_owner, students=6, fees=8)
    engine = create_engine(as_owner, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}"
        )
    engine.dispose()
    bridge.url = make_url(as_owner).set(username=ROLE).render_as_string(hide_password=False)

    bridge.alma_to_sis()
    bridge.far.load_inbound()
    bridge.far.students_pay(0.5)
    bridge.far.clock.advance(hours=1)
    bridge.far.write_query_output()
    assert bridge.sis_to_alma()[1].posted > 0
    assert bridge.unexplained() == {}

    with closing(bridge.ledger("a task")) as ledger:
        with ledger.write() as tx:
            tx.run("DELETE FROM migration WHERE version = (SELECT MAX(version) FROM migration)")
        with pytest.raises(AlmaHookError):
            ledger.migrate()
    as_the_task = create_engine(bridge.url)
    with pytest.raises(Exception, match="must be owner"), as_the_task.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE payment ADD COLUMN more TEXT")
    as_the_task.dispose()
