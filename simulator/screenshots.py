"""``python -m simulator screenshots``: what an engineer sees in Airflow's pages, as pictures for the docs.

A simulated campus, a real Airflow, a real browser. Everything that can be seen on them is generated.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from simulator.airflow_home import AirflowHome
from simulator.demo import Demo, say, settings_text
from simulator.serve import running

#: A picture above this is no picture for a page of text.
MOST_BYTES = 200_000
_WIDTH, _HEIGHT = 1280, 800
# A browser without a window that asks nobody outside for anything.
_BROWSER_OPTIONS = (
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_HELD = "\n[brake]\nmax_lines = 20\n"


class NoBrowserError(Exception):
    """There is nothing to take pictures with; the text says what to install."""


@dataclass(frozen=True)
class Seen:
    """What was made to be looked at: runs by their ids."""

    finished: str
    payments: str
    asking: str
    waiting: str


def screenshots(work: Path, pictures: Path) -> list[Path]:
    """Take every picture into a folder and return them; about two minutes.

    Raises ``NoBrowserError`` before anything is started.
    """
    chromium = _chromium()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    pictures.mkdir(parents=True, exist_ok=True)
    with running(work / "campus", seed=1, students=200, fees=120) as (campus, facts):
        campus.limits.per_second = 1000
        demo = Demo(work, campus, facts, "default", connections_in="database")
        demo.airflow.prepare()
        try:
            demo.airflow.start()
            say("A day of fees, of payments, and a batch that is held")
            seen = _live(demo, facts)
            say("The pictures")
            with _browser(chromium, demo.airflow) as page:
                taken = [
                    _take(page, demo.airflow, pictures / f"{name}.png", shot, seen)
                    for name, shot in SHOTS.items()
                ]
        finally:
            demo.airflow.stop()
    return taken


def _live(demo: Demo, facts: dict[str, Any]) -> Seen:
    campus, airflow = demo.campus, demo.airflow
    demo.run("alma_to_sis")
    demo.loaded()
    campus.clock.advance(hours=12)
    campus.students_pay(1 / 3)
    campus.overpay(2)
    campus.desk_payments(5)
    campus.waives(3)
    campus.write_query_output()
    demo.run("sis_to_alma")
    demo.settings.write_text(settings_text(facts, "default") + _HELD)
    campus.new_fees(40)
    campus.refresh_analytics()
    demo.run("alma_to_sis")
    finished, asking = _runs(airflow, "alma_to_sis")
    return Seen(finished, _runs(airflow, "sis_to_alma")[0], asking, _waiting(airflow))


def _runs(airflow: AirflowHome, dag_id: str) -> list[str]:
    runs = airflow.api("GET", f"/api/v2/dags/{dag_id}/dagRuns?order_by=run_after")["dag_runs"]
    return [str(run["dag_run_id"]) for run in runs]


def _waiting(airflow: AirflowHome) -> str:
    """Wait until a person is asked; return the run of ``release_batch`` in which."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for run_id in _runs(airflow, "release_batch"):
            if airflow.task_states("release_batch", run_id)["await_answer"] == "awaiting_input":
                return run_id
        time.sleep(0.5)
    raise TimeoutError("nobody was asked about the held batch")


# -- the browser -----------------------------------------------------------------------------------------


def _chromium() -> str:
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        raise NoBrowserError(f"There is none of {', '.join(_BROWSERS)}: apt-get install chromium")
    if find_spec("playwright") is None:
        raise NoBrowserError("playwright is not installed: `make screenshots` brings it")
    return found


@contextmanager
def _browser(chromium: str, airflow: AirflowHome) -> Iterator[Any]:
    """Give a page of a browser that is signed in."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        # Its own sandbox needs rights that a container lacks; it sees nothing but this Airflow.
        browser = player.chromium.launch(executable_path=chromium, args=[*_BROWSER_OPTIONS, "--no-sandbox"])
        context = browser.new_context(
            viewport={"width": _WIDTH, "height": _HEIGHT}, locale="en-US", timezone_id="UTC"
        )
        page = context.new_page()
        page.goto(f"{airflow.url}/auth/login")
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", airflow.password)
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "login" not in url)
        yield page
        browser.close()


def _take(page: Any, airflow: AirflowHome, picture: Path, shot: Callable[..., None], seen: Seen) -> Path:
    shot(_Pages(page, airflow.url), seen)
    page.screenshot(path=picture)
    size = picture.stat().st_size
    print(f"  {picture.name}, {size // 1000} kB", flush=True)
    if size > MOST_BYTES:
        raise ValueError(f"{picture} has {size} bytes, {MOST_BYTES} at most")
    return picture


class _Pages:
    """One browser page, and what a person does on it."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url

    def open(self, path: str, text: str, *, height: int = _HEIGHT) -> None:
        """Open a page and wait until it shows a text."""
        self.page.set_viewport_size({"width": _WIDTH, "height": height})
        self.page.goto(self.url + path)
        self.see(text)

    def see(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for(timeout=20_000)
        self.page.wait_for_timeout(1500)  # what slides or fades in

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name).first.click()


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/runs/{quote(run_id, safe='')}"


# -- the pictures ----------------------------------------------------------------------------------------


def _connection(pages: _Pages, _seen: Seen) -> None:
    pages.open("/connections", "alma_default", height=900)
    pages.press("Add Connection")
    dialog = pages.page.get_by_role("dialog")
    dialog.locator("input[name=connection_id]").fill("alma_default")
    dialog.get_by_role("combobox").first.click()
    pages.page.keyboard.type("Alma")
    pages.page.get_by_role("option").first.click()
    pages.see("Gateway address")
    dialog.locator("input[name=host]").fill("http://127.0.0.1")
    dialog.locator("input[name=port]").fill("8443")
    dialog.locator("input[name=password]").fill("a made-up key")


def _connection_extra(pages: _Pages, seen: Seen) -> None:
    _connection(pages, seen)
    pages.page.get_by_role("dialog").get_by_text("Extra Fields", exact=True).click()
    pages.see("Requests per second")


def _connection_test(pages: _Pages, _seen: Seen) -> None:
    # By itself: the ledger's address is a path of this machine.
    pages.open("/connections", "alma_default", height=480)
    pages.page.get_by_placeholder("Search Connections").fill("alma_default")
    pages.see("1 Connection")
    pages.page.get_by_role("row", name="alma_default").get_by_role("button", name="Test Connection").click()
    pages.see("Test Connection")


def _trigger(pages: _Pages, _seen: Seen) -> None:
    pages.open("/dags/alma_to_sis", "Last 24 Hours", height=1000)
    pages.press("Trigger")
    pages.see("How fees are found")


def _dag(pages: _Pages, _seen: Seen) -> None:
    pages.open("/dags/alma_to_sis", "Last 24 Hours", height=900)
    pages.press("Dag Docs")
    pages.see("when it is red")
    # The window opens small; a person pulls it larger by its corner.
    box = pages.page.get_by_role("dialog").bounding_box()
    pages.page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] - 5)
    pages.page.mouse.down()
    pages.page.mouse.move(1250, 880, steps=5)
    pages.page.mouse.up()
    pages.page.wait_for_timeout(500)


def _summary(pages: _Pages, seen: Seen) -> None:
    pages.open(_run("alma_to_sis", seen.asking) + "/tasks/report/rendered_templates", "BALANCES")


def _payments(pages: _Pages, seen: Seen) -> None:
    pages.open(_run("sis_to_alma", seen.payments) + "/tasks/report/rendered_templates", "BALANCES")


def _task(pages: _Pages, _seen: Seen) -> None:
    pages.open("/dags/alma_to_sis/tasks/plan_batches", "Last 24 Hours")
    pages.press("Documentation")
    pages.see("When it is red")


def _held(pages: _Pages, seen: Seen) -> None:
    pages.open(_run("release_batch", seen.waiting), "Required Action", height=640)


def _answer(pages: _Pages, seen: Seen) -> None:
    pages.open(
        _run("release_batch", seen.waiting) + "/tasks/await_answer/required_actions", "Digest", height=1300
    )


SHOTS: dict[str, Callable[[_Pages, Seen], None]] = {
    "connection": _connection,
    "connection_extra": _connection_extra,
    "connection_test": _connection_test,
    "trigger": _trigger,
    "summary": _summary,
    "summary_of_payments": _payments,
    "task": _task,
    "held": _held,
    "answer": _answer,
    "dag": _dag,  # the last: Airflow opens the next window of docs as large as this one was left
}
