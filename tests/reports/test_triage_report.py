"""The triage as cells: with no host, with a finding, and hostile words in it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from runbooks_lib import config as inventory
from runbooks_lib.diagnosis.diagnosis import Diagnosis, diagnose
from runbooks_lib.diagnosis.finding import Evidence, Finding, Mend, Severity
from runbooks_lib.diagnosis.triage import read_scene
from runbooks_lib.reports import result, triage_mends, triage_page
from runbooks_lib.reports.run import run_report
from runbooks_lib.reports.triage_chart import draw
from runbooks_lib.reports.triage_report import TriageReport, prepare

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
RELIEVE = Mend("incident/relieve-disk-pressure.ipynb", {"host": "a", "mountpoint": "/srv/'x\""}, "gives room")


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    file = tmp_path_factory.mktemp("here") / "runbooks.toml"
    file.write_text("[hosts.here]\nlocal = true\n")
    config = inventory.load(file)
    return diagnose(read_scene(config, config.hosts["here"], now=datetime.now(UTC)))


def test_without_a_host_each_cell_says_that_none_is_chosen() -> None:
    report = prepare(host="")
    for cell in (report.findings, report.measures, report.mends, report.not_told):
        assert "No host is chosen" in cell().text


def test_a_run_that_nobody_watches_fails_without_a_host(tmp_path: Path) -> None:
    done = run_report(str(NOTEBOOKS / "incident/triage-slow-service.ipynb"), {}, outputs=tmp_path)
    assert (done.state, done.record.message) == ("failed", "no host was chosen (code cell 2 of 8)")


def test_a_notebook_shows_what_is_known_early_and_then_only_the_whole(tmp_path: Path) -> None:
    file = tmp_path / "runbooks.toml"
    file.write_text("[hosts.here]\nlocal = true\n")
    seen: list[str] = []
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "import time\nfrom runbooks_lib.diagnosis import triage\n"
                "from runbooks_lib.facts import services_asking\n"
                "from runbooks_lib.reports.triage_report import prepare\n"
                "services_asking.ask, triage.EARLY_SECONDS = lambda _: time.sleep(6) or (), 0.0\n"
                f"report = prepare({str(file)!r}, host='here')"
            )
        ]
    )

    class Client(NotebookClient):
        def process_message(self, message: Any, cell: Any, index: int) -> Any:
            if message["msg_type"] in ("display_data", "update_display_data"):
                seen.append(message["content"]["data"]["text/plain"])
            return super().process_message(message, cell, index)

    Client(notebook, kernel_name="python3", timeout=120).execute()
    early, end = seen
    assert "no answer yet about" in early
    assert "the services" in early
    assert "All has answered" in end
    (output,) = notebook.cells[0].outputs
    assert output.data["text/plain"] == end


def test_the_hosts_words_are_escaped_and_a_cause_stands_with_what_it_explains(looked: Diagnosis) -> None:
    cause = Finding(
        "disk-full", Severity.RED, "<script>alert(1)</script> is full", (Evidence("<b>much</b> is used", 0.9),), "look",
        "do", subject="/srv", mend=RELIEVE,
    )  # fmt: skip
    symptom = replace(cause, rule="service-down", cause="the service waits", because=cause.key, mend=None, symptom=True)
    page = triage_page.findings(replace(looked, findings=(cause, symptom)))
    assert "<script>" not in page.html
    assert "<b>much" not in page.html
    assert "Explains: the service waits" in page.html
    assert "relieve-disk-pressure.ipynb" in page.html


def test_what_needs_a_person_is_named_alike_every_night(looked: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[result.Result] = []
    monkeypatch.setattr("IPython.display.display", lambda thing, **_: shown.append(thing))

    def red(rule: str, cause: str, **more: Any) -> Finding:
        return Finding(rule, Severity.RED, cause, (Evidence("a sign", 0.9),), "look", "do", **more)

    def published(*findings: Finding) -> list[str]:
        TriageReport(replace(looked, host="db-1", findings=findings)).publish()
        assert shown[-1].threshold_crossed
        return list(shown[-1].needed)

    slow = replace(red("disk-slow", "vdb answers slowly", subject="vdb"), severity=Severity.YELLOW)
    down = red("service-down", "shop does not answer", subject="shop", because=slow.key)
    assert published(red("database-grown", "/srv is full: 3 GiB", subject="/srv"), slow, down) == [
        "db-1: database grown (/srv)", "db-1: disk slow (vdb)",
    ]  # fmt: skip
    night = [published(red("memory-exhausted", f"`java` (pid {pid})", subject=str(pid))) for pid in (812, 977)]
    assert night == [["db-1: memory exhausted"]] * 2


def test_every_measure_has_its_chart_and_says_when_there_is_no_baseline(looked: Diagnosis) -> None:
    chart = draw(looked.scene.deviations, looked.scene.baseline, now=looked.time)
    assert chart.png.startswith(b"\x89PNG")
    assert chart.alt.count("no baseline") == len(looked.scene.deviations)
    table = TriageReport(looked).measures()
    assert "No baseline" in table.text


def test_the_notebook_that_mends_is_copied_with_its_parameters_in(tmp_path: Path) -> None:
    (tmp_path / "incident").mkdir()
    shutil.copy(NOTEBOOKS / RELIEVE.notebook, tmp_path / "incident")
    copy = triage_mends.fill(RELIEVE, "a/b c", notebooks=tmp_path)
    assert copy.parent == tmp_path / "filled-in"
    assert copy.name == "a_b_c-relieve-disk-pressure.ipynb"
    cells = nbformat.read(copy, as_version=4).cells
    injected = next(cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", []))
    values: dict[str, str] = {}
    exec(injected.source, values)  # noqa: S102 - what a kernel would do with it
    assert (values["host"], values["mountpoint"]) == ("a", "/srv/'x\"")


def test_one_notebook_for_two_findings_is_named_once() -> None:
    one = Finding("x", Severity.RED, "x", (), "", "", mend=RELIEVE)
    piece = triage_mends.mends((one, replace(one, rule="y")), "a", write=False)
    assert piece.text.count("notebooks/incident/relieve-disk-pressure.ipynb with") == 1
