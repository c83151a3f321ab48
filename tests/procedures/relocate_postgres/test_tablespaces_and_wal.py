"""A real database whose WAL and tables lie on a third filesystem, apart from its data."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.relocate.here import TABLESPACE, Here, as_owner, here, unmount
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures import remove_relocated
from runbooks_lib.procedures.relocate_postgres import RUNBOOK
from runbooks_lib.runbook.plan import Verdict
from runbooks_lib.runbook.resume import carry_out, open_run
from runbooks_lib.runbook.run import Options, Run, Stopped, target
from runbooks_lib.runbook.words import plan_text
from runbooks_lib.training.lab.load import Load
from tests.procedures.relocate_postgres.moves import (
    aimed,
    begun,
    blocked,
    done,
    places,
    room_for_runs,
    servers,
    taken_back,
)
from tests.runbook.operators import Scripted

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def standing() -> Iterator[Here]:
    with here(20, apart=True, data="data with blanks") as cluster:
        yield cluster


@pytest.fixture
def cluster(standing: Here) -> Iterator[Here]:
    (standing.root / "side/wal").mkdir(exist_ok=True)
    with room_for_runs(standing):
        yield standing


def location(cluster: Here) -> str:
    return cluster.sql("select pg_tablespace_location(oid) from pg_tablespace where oid > 9999")


def moved_under_load(cluster: Here, **given: object) -> None:
    aim = aimed(cluster, **given)
    with Load([cluster.address], password="unused") as load:
        load.wait_acknowledged(30)
        done(cluster, aim)
        load.wait_acknowledged(30)
    verdict = load.verify()
    assert verdict.ok, verdict
    assert cluster.directory.resolve() == Path(aim.parameters["target"])
    again = target(RUNBOOK, LocalHost(), aim.parameters).plan()
    assert again.nothing_to_do, plan_text(again, brief=True)


def restarted(cluster: Here) -> None:
    cluster.stop()
    cluster.start()
    assert cluster.sql("select count(*) > 0 from acknowledged", "buildserver") == "t"


def removed(cluster: Here, kept: Path) -> None:
    given = {"kept": str(kept), "backup": "a test's", "without_reboot": True}
    aim = target(remove_relocated.RUNBOOK, LocalHost(), given)
    plan = aim.plan()
    assert not plan.blocked, plan.blocked[0].because
    options = Options(cluster.root / "runs", places(cluster), Scripted(present=False), plan.digest)
    run = open_run(aim, options, plan)
    assert isinstance(run, Run)
    carry_out(run)


def test_they_move_too_the_wal_stays_on_its_own_disk_and_what_is_left_can_be_removed(cluster: Here) -> None:
    lay, was, wal = cluster.directory.resolve(), Path(location(cluster)), (cluster.directory / "pg_wal").resolve()
    to = cluster.free("moved")
    plan = aimed(cluster).plan()
    assert f"the tablespace {TABLESPACE} (" in plan.steps[0].because
    assert f"lies in {was} and goes to {to}.tablespace-" in plan.steps[0].because
    moved_under_load(cluster)
    assert location(cluster).startswith(f"{to}.tablespace-")
    beside = (to / "pg_wal").resolve()
    assert beside.parent == wal.parent
    assert beside.name.startswith("main-")
    assert beside != wal
    restarted(cluster)
    fstab = (cluster.root / "fstab").read_text()
    assert f"{to.parent} ext4 defaults,nofail" in fstab
    assert f"{cluster.root}/side ext4 defaults,nofail" in fstab

    kept = lay.with_name(f"{lay.name}.relocated")
    (version,) = was.iterdir()
    assert f"also: {version}" in (kept / "RELOCATED").read_text()
    removed(cluster, kept)
    assert not kept.exists()
    assert list(was.iterdir()) == []
    assert not wal.exists() or not list(wal.iterdir())
    restarted(cluster)


def test_they_go_where_they_are_told_to(cluster: Here) -> None:
    place = cluster.root / "side/another place"
    moved_under_load(cluster, tablespaces=[f"{TABLESPACE}={place}"], wal="inside")
    assert location(cluster) == str(place)
    assert not (cluster.directory / "pg_wal").is_symlink()
    restarted(cluster)


def test_wal_that_was_inside_goes_to_a_disk_of_its_own(cluster: Here) -> None:
    if (cluster.directory / "pg_wal").is_symlink():
        done(cluster, aimed(cluster, wal="inside"))
    aim = aimed(cluster, wal=str(cluster.root / "side/wal/own"), target=str(cluster.free("once more")))
    done(cluster, aim)
    assert (cluster.directory / "pg_wal").readlink() == cluster.root / "side/wal/own"
    restarted(cluster)


def test_undo_leaves_nothing_of_them_and_the_old_ones_as_they_were(cluster: Here) -> None:
    lies, was, outside = cluster.directory.resolve(), location(cluster), cluster.outside()
    files = sorted(str(path) for path in (cluster.root / "side").rglob("*") if "pg_wal" not in str(path))
    fstab = (cluster.root / "fstab").read_text()
    aim = aimed(cluster, wal=str(cluster.root / "side/wal/other"))
    done(cluster, aim, ("look", "copy", "follow", "lasting"))
    assert len(servers(cluster)) == 2
    taken_back(cluster, aim)
    assert servers(cluster) == [str(lies)]
    assert location(cluster) == was
    assert cluster.outside() == outside
    left = [path for path in cluster.root.glob("*/*") if "moved" in path.name]
    assert left == []
    assert not (cluster.root / "side/wal/other").exists()
    now = sorted(str(path) for path in (cluster.root / "side").rglob("*") if "pg_wal" not in str(path))
    assert [path for path in files if "/wal/" not in path] == [path for path in now if "/wal/" not in path]
    assert (cluster.root / "fstab").read_text() == fstab


def test_a_tablespace_that_is_made_meanwhile_ends_the_move(cluster: Here) -> None:
    """A standby on the same host would follow it into the directory of the old server."""
    lies, aim = cluster.directory.resolve(), aimed(cluster)
    place = cluster.root / "side/late"
    place.mkdir()
    subprocess.run(["chown", "postgres:", str(place)], check=True)
    run = begun(cluster, aim)
    try:
        for name in ("look", "copy", "follow", "lasting"):
            run.do(RUNBOOK.step(name))
        cluster.sql(f"create tablespace late location '{place}'")
        with pytest.raises(Stopped, match="tablespaces were made or dropped"):
            run.do(RUNBOOK.step("switch"))
    finally:
        run.close()
    assert str(lies) in servers(cluster)
    taken_back(cluster, aim)
    cluster.sql("drop tablespace late")
    assert servers(cluster) == [str(lies)]


REFUSED = {
    "unknown": ({"tablespaces": ["slow=/x/y"]}, "there is no tablespace slow"),
    "the old place": ({"tablespaces": [f"{TABLESPACE}=OLD"]}, "two things would lie in"),
    "no parent": ({"tablespaces": [f"{TABLESPACE}=/srv/none/x"]}, "/srv/none is not there; make it"),
    "in memory": ({"wal": "/dev/shm/wal"}, "/dev/shm is tmpfs"),
    "a mount point": ({"wal": "ROOT/side"}, "is the mount point itself"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_place_that_will_not_do_is_refused(what: str, cluster: Here) -> None:
    given, reason = REFUSED[what]
    old, root = location(cluster), str(cluster.root)

    def real(value: str) -> str:
        return value.replace("OLD", old).replace("ROOT", root)

    asked = {name: real(value) if isinstance(value, str) else [*map(real, value)] for name, value in given.items()}
    assert reason in blocked(aimed(cluster, **asked).plan())


def test_the_room_for_them_is_counted_where_they_go(cluster: Here) -> None:
    plan = aimed(cluster).plan()
    assert not plan.blocked
    place = cluster.root / "small"
    place.mkdir()
    image = cluster.root / "small.img"
    image.touch()
    subprocess.run(["truncate", "-s", "20M", str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        for given in ({"wal": f"{place}/wal"}, {"tablespaces": [f"{TABLESPACE}={place}/fast"]}):
            assert f"{place} has " in blocked(aimed(cluster, **given).plan())
    finally:
        unmount(place)


def test_old_data_that_a_server_uses_by_a_link_is_not_removed(cluster: Here) -> None:
    """Data directory and note of an old move, and the tablespace is in use: by whoever, it stays."""
    (version,) = Path(location(cluster)).iterdir()
    kept = cluster.root / "side/kept.relocated"
    (kept / "pg_tblspc").mkdir(parents=True)
    (kept / "pg_tblspc/1").symlink_to(version.parent)
    (kept / "RELOCATED").write_text(f"This was the database.\nalso: {version}\nalso: /etc\n")
    subprocess.run(["chown", "-R", "postgres:", str(kept)], check=True)
    given = {"kept": str(kept), "backup": "a test's", "without_reboot": True}
    plan = target(remove_relocated.RUNBOOK, LocalHost(), given).plan()
    assert plan.steps[0].verdict is Verdict.BLOCKED
    assert "keeps data in" in plan.steps[0].because or "uses" in plan.steps[0].because
    assert plan.steps[0].before == {"left": [str(version)]}


def test_a_server_that_was_moved_comes_up_from_the_copy_alone(cluster: Here) -> None:
    """The old places are empty or gone, and nothing is missing."""
    done(cluster, aimed(cluster))
    cluster.stop()
    said = as_owner("pg_controldata", "-D", str(cluster.directory))
    assert "shut down" in said
    old = [path for path in cluster.root.glob("*/*") if path.name.endswith(".relocated")]
    assert old
    for path in old:
        path.rename(path.with_name("away"))
    cluster.start()
    assert cluster.sql("select count(*) > 0 from filler", "buildserver") == "t"
