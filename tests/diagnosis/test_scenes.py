"""Whole practice machines with one fault each, as they answered: scenes/*.json, kept by `python -m benchmarks.triage`.

The true cause is the first finding, and a healthy machine has none that is red. A new machine's odd answer is a new
file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.triage import kept
from benchmarks.triage.__main__ import CAUSES, PAIRS, Case
from runbooks_lib import config as inventory
from runbooks_lib.diagnosis.diagnosis import diagnose
from runbooks_lib.facts.fact import Fact, State
from runbooks_lib.training.lab import faults

SCENES = sorted((Path(__file__).parent / "scenes").glob("*.json"))


@pytest.mark.parametrize("path", SCENES, ids=lambda path: path.stem)
def test_the_true_cause_is_found_first_and_nothing_is_red_on_a_healthy_machine(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "runbooks.toml"
    file.write_text('[hosts.kept]\n[hosts.kept.partitions."/srv/db"]\ndatabase = true\n')
    name, names, scene = kept.load(path, inventory.load(file))
    case = Case(name, names, diagnose(scene))
    assert case.right, [finding.key for finding in case.told.findings]
    assert case.false_reds == ()


def test_there_is_a_scene_of_every_fault_of_the_pairs_and_of_the_healthy_machine() -> None:
    seen = {tuple(json.loads(path.read_text())["faults"]) for path in SCENES}
    assert set(CAUSES) == set(faults.FAULTS)
    assert seen >= {(), *((name,) for name in CAUSES), *PAIRS}


def test_a_database_that_is_too_slow_to_answer_is_still_named_where_its_move_is_proposed(tmp_path: Path) -> None:
    file = tmp_path / "runbooks.toml"
    file.write_text('[hosts.kept]\n[hosts.kept.partitions."/srv/db"]\ndatabase = true\n')
    _, _, scene = kept.load(Path(__file__).parent / "scenes/slow-disk.json", inventory.load(file))
    mute = replace(scene.deeper, postgres_details=Fact(State.TIMED_OUT, None, "slow did not end within 45 s"))
    first = diagnose(replace(scene, deeper=mute)).findings[0]
    assert first.mend is not None
    assert first.mend.parameters == {"host": "kept", "directory": "/srv/db/postgresql/15/main"}
