"""A practice machine's life: reached with ordinary checks, reset, power cut, ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.facts.collect import read_slow, read_snapshot
from runbooks_lib.facts.samples import Sample
from runbooks_lib.hosts.host import HostKeyChanged, Script
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve
from runbooks_lib.training.lab import faults, lab, world
from runbooks_lib.training.lab.faults.sql import psql
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.lab.machine import Machine, connected
from runbooks_lib.training.lab.wire import ConnectionLost, ServerError, WireClient

# The first test of a run may have to build the image.
pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1200)]


def rest(machine: Machine, path: str, body: object = None, timeout: float = 30) -> dict[str, object]:
    address, port = machine.address("http")
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://{address}:{port}{path}", data=data, timeout=timeout) as answer:
        said: dict[str, object] = json.load(answer)
        return said


def wait_finished(machine: Machine, build: dict[str, object]) -> None:
    end = time.monotonic() + 180
    number = int(str(build["id"]))
    while psql(machine, f"select state from builds where id = {number}").strip() != "finished":  # noqa: S608
        assert time.monotonic() < end
        time.sleep(0.5)


def test_the_role_is_what_it_promises(machine: Machine) -> None:
    with connected(machine) as host:
        slow = read_slow(host, ("lvm", "postgres"))
    assert slow.lvm is not None
    assert slow.lvm.value is not None
    said = machine.sh("vgs --noheadings --units m --nosuffix --options vg_free data", changes=False)
    assert float(said) > 2000
    assert slow.postgres is not None
    assert slow.postgres.value is not None
    assert slow.postgres.value[0].data_directory == "/srv/db/postgresql/15/main"
    assert psql(machine, "show data_checksums").strip() == "on"
    assert machine.sh("findmnt -no FSTYPE /srv/db", changes=False).strip() == "ext4"
    assert machine.sh("systemctl list-units --failed --no-legend", changes=False) == ""


def logged_in(address: tuple[str, int], password: str) -> WireClient:
    return WireClient(address, user="buildserver", password=password, database="buildserver", timeout_seconds=30)


def test_passwords_are_made_for_each_machine_and_open_the_database_and_its_pooler(machine: Machine) -> None:
    passwords = machine.record.passwords
    assert set(passwords) == {"buildserver", "replicator"}
    assert (machine.directory / "machine.json").stat().st_mode & 0o077 == 0
    for service in ("postgres", "pgbouncer"):
        address = machine.address(service)
        with logged_in(address, passwords["buildserver"]) as client:
            assert client.query("select current_user") == [("buildserver",)]
        with pytest.raises((ServerError, ConnectionLost)):
            logged_in(address, passwords["replicator"])
    logs = machine.sh("cat /var/log/postgresql/* /etc/pgbouncer/userlist.txt; journalctl --output cat", changes=False)
    assert not [login for login, password in passwords.items() if password in logs]


def test_a_pooler_that_is_paused_while_the_database_restarts_lets_no_client_see_it(machine: Machine) -> None:
    admin = "cd /; runuser -u postgres -- psql -h /run/postgresql -p 6432 -U pgbouncer -qc"
    with Load([machine.address("pgbouncer")], timeout_seconds=60) as load:
        load.wait_acknowledged(20)
        machine.sh(
            f"{admin} pause pgbouncer; systemctl restart postgresql@15-main; {admin} resume pgbouncer",
            deadline_seconds=120,
        )
        load.wait_acknowledged(20)
    assert load.verify().ok
    assert load.refusals == {}


def test_a_spare_disk_is_there_with_nothing_on_it(machine: Machine) -> None:
    spare = "/dev/disk/by-id/virtio-spare"
    assert machine.sh(f"wipefs --noheadings {spare}; lsblk -no MOUNTPOINTS {spare}", changes=False).strip() == ""
    machine.sh(f"vgextend --quiet data {spare}; vgreduce --quiet data {spare}; pvremove --quiet {spare}")


def test_the_programs_of_the_runbooks_are_there(machine: Machine) -> None:
    programs = (
        "rsync xfs_growfs mkfs.btrfs growpart parted sfdisk fuser lsof iostat sar logrotate curl pgbouncer"
        " prometheus-alertmanager amtool /usr/lib/postgresql/15/bin/pg_amcheck"
    )
    assert machine.sh(f"for p in {programs}; do command -v $p > /dev/null || echo $p; done", changes=False) == ""


def test_an_alert_manager_can_be_started_silenced_and_read_from_outside(machine: Machine) -> None:
    machine.sh(
        """systemctl start prometheus-alertmanager
i=0
until amtool --alertmanager.url=http://127.0.0.1:9093 silence add --duration=1h --author=test --comment=window \
    instance=builds; do i=$((i + 1)); [ $i -lt 100 ]; sleep 0.5; done""",
        deadline_seconds=120,
    )
    address, port = machine.address("alertmanager")
    with urllib.request.urlopen(f"http://{address}:{port}/api/v2/silences", timeout=30) as answer:
        assert [silence["comment"] for silence in json.load(answer)] == ["window"]
    machine.sh("systemctl stop prometheus-alertmanager; rm -rf /var/lib/prometheus/alertmanager/*")


def test_the_volume_grows_under_a_running_database(machine: Machine) -> None:
    with Load([machine.address("postgres")]) as load:
        load.wait_acknowledged(10)
        machine.sh("lvextend --quiet --resizefs --size +64M data/db")
        load.wait_acknowledged(10)
    assert load.verify().ok
    machine.reset()


def test_another_host_key_is_refused_as_for_any_host(machine: Machine, tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    known = tmp_path / "known_hosts"
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    known.write_text(f"{machine.name} {key.with_suffix('.pub').read_text()}")
    config.write_text(machine.ssh_config.read_text().replace(str(machine.known_hosts), str(known)))
    host = SshHost(machine.name, settings_source=lambda name: resolve(name, config_file=config))
    with pytest.raises(HostKeyChanged):
        host.run(Script("true"))
    host.close()


def test_openssh_reaches_it_with_the_same_files(machine: Machine) -> None:
    said = subprocess.run(
        ["ssh", "-F", str(machine.ssh_config), "-o", "BatchMode=yes", machine.name, "hostname"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stdout.strip() == machine.name


def test_no_way_leads_from_the_machine_to_anywhere(machine: Machine) -> None:
    said = machine.sh("timeout 5 bash -c '</dev/tcp/10.0.2.2/22' 2>&1 && echo open || echo closed", changes=False)
    assert said.split()[-1] == "closed"
    assert machine.sh("ip route show default", changes=False) == ""


def page(machine: Machine) -> str:
    """The status page, which answers with 503 when the database says nothing."""
    address, port = machine.address("http")
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=30) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def test_the_build_server_takes_builds_and_says_so_in_teamcitys_shape(machine: Machine) -> None:
    build = rest(machine, "/app/rest/buildQueue", {"buildType": {"id": "Core_Compile"}})
    assert build["state"] == "queued"
    assert build["buildTypeId"] == "Core_Compile"
    assert re.fullmatch(r"\d{8}T\d{6}\+0000", str(build["queuedDate"]))
    assert {"count", "href", "build"} <= set(rest(machine, "/app/rest/buildQueue"))
    agents = rest(machine, "/app/rest/agents?locator=connected:true")
    assert agents["count"] == 3
    wait_finished(machine, build)
    builds = rest(machine, "/app/rest/builds")["build"]
    assert isinstance(builds, list)
    finished = next(one for one in builds if one["id"] == build["id"])
    assert finished["state"] == "finished"
    assert finished["agent"]["name"].startswith("agent-")
    assert {"queuedDate", "startDate", "finishDate"} <= set(finished)
    shown = page(machine)
    assert "Scheduling" in shown
    assert "Stalled for" not in shown


def test_the_build_server_stalls_quietly_when_the_disk_is_full_and_gets_on_when_it_is_not(machine: Machine) -> None:
    faults.inject(machine, "disk-full-log")
    # Until it has met the full disk itself: the last free pages of its tables are used up first.
    row = "insert into build_logs select min(id), repeat(md5(random()::text), 60) from builds"
    fill = f'cd /; for n in 1 2 3 4 5; do runuser -u postgres -- psql -q buildserver -c "{row}"; done'
    end = time.monotonic() + 120
    while "Stalled for" not in page(machine):
        assert time.monotonic() < end
        machine.sh(fill, check=False)
        with contextlib.suppress(OSError):
            rest(machine, "/app/rest/buildQueue", {"buildType": {"id": "More"}}, timeout=10)
    assert machine.sh("systemctl is-active build-server", changes=False).strip() == "active"
    finished = "select count(*) from builds where state = 'finished'"
    with contextlib.suppress(RunbookError):  # the server may have ended itself: then nothing is finished either
        before = psql(machine, finished)
        time.sleep(3)
        assert psql(machine, finished) == before
    faults.remove(machine, "disk-full-log")
    build = rest(machine, "/app/rest/buildQueue", {"buildType": {"id": "After"}})
    wait_finished(machine, build)
    assert "Stalled for" not in page(machine)
    machine.reset()


def test_the_collectors_say_what_node_exporter_says(machine: Machine) -> None:
    with connected(machine) as host:
        metrics = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:9100/metrics\").read().decode())'"
        before = exported(host.run(Script(metrics, name="node_exporter"), deadline_seconds=60).stdout.decode())
        ours = read_snapshot(host, sample_seconds=0, deadline_seconds=60).samples()
        after = exported(host.run(Script(metrics, name="node_exporter"), deadline_seconds=60).stdout.decode())
    unknown = [sample for sample in ours if named(sample) not in after]
    assert not unknown, "node_exporter has no such name, or other labels"
    wrong = []
    for sample in ours:
        low, high = sorted((before.get(named(sample), 0.0), after[named(sample)]))
        slack = 0.02 * max(abs(low), abs(high)) + slack_of(sample)
        if not low - slack <= sample.value <= high + slack:
            wrong.append((sample, low, high))
    assert not wrong
    assert len(ours) > 140, ours


def named(sample: Sample) -> tuple[str, frozenset[tuple[str, str]]]:
    return sample.name, frozenset(sample.labels.items())


def slack_of(sample: Sample) -> float:
    """What may come and go between two readings: some megabytes of memory, a few processes and sockets."""
    return 24 * 1024**2 if sample.name.endswith("_bytes") else 3.0


def exported(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)", line)
        if match:
            labels = frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            found[(match[1], labels)] = float(match[3])
    # We keep the sum of all CPUs, node_exporter each of them.
    for (name, labels), value in list(found.items()):
        if name == "node_cpu_seconds_total":
            total = (name, frozenset({"cpu": "all", "mode": dict(labels)["mode"]}.items()))
            found[total] = found.get(total, 0.0) + value
    return found


def test_a_reset_brings_back_memory_and_disks_within_seconds(machine: Machine) -> None:
    machine.reset()
    before = world.look(machine)
    rows = "select count(*) from acknowledged"
    count = psql(machine, rows)
    machine.sh("touch /srv/db/here /root/there; systemctl stop build-server; rm -rf /srv/db/postgresql/15/main/base")
    machine.throttle(operations_per_second=5)
    machine.cable(plugged=False)
    seconds = machine.reset()
    print(f"reset: {seconds:.1f} s")
    assert world.differences(before, world.look(machine)) == []
    assert psql(machine, rows) == count
    assert machine.sh("ls /root", changes=False) == ""
    with connected(machine) as host:
        clock = read_snapshot(host, sample_seconds=0, deadline_seconds=60).clock.value
    assert clock is not None
    assert abs(clock.offset_seconds) < 5 + clock.uncertainty_seconds


def test_a_power_cut_during_writes_loses_nothing_that_was_acknowledged(machine: Machine, tmp_path: Path) -> None:
    log = tmp_path / "acknowledged"
    with Load([machine.address("postgres")], clients=4, commits_per_second=0, log=log) as load:
        load.wait_acknowledged(200)
        machine.power_cut()
        before = load.acknowledged
        machine.wait_ready()
        load.wait_acknowledged(20, seconds=180)
    verdict, gap = load.verify(), load.longest_gap()
    print(f"power cut: {verdict}, gap {gap}, {before} acknowledged before it")
    assert verdict.ok, verdict
    assert verdict.acknowledged > before
    assert gap.seconds > 3
    assert len(log.read_text().splitlines()) == verdict.acknowledged
    said = machine.sh("grep -c 'database system was not properly shut down' /var/log/postgresql/*.log", changes=False)
    assert int(said.split(":")[-1]) >= 1
    machine.sh(
        "cd /; runuser -u postgres -- /usr/lib/postgresql/15/bin/pg_amcheck --install-missing --all --heapallindexed",
        deadline_seconds=120,
    )
    machine.reset()


def test_the_oracle_finds_what_is_really_lost(machine: Machine) -> None:
    with Load([machine.address("postgres")]) as load:
        load.wait_acknowledged(30)
    psql(machine, "delete from acknowledged where number = 3")
    psql(machine, "insert into acknowledged select client, 999999 from acknowledged order by written_at desc limit 1")
    verdict = load.verify()
    assert not verdict.ok
    assert {number for _, number in verdict.lost} == {3}
    assert [number for _, number in verdict.invented] == [999999]


def test_a_name_that_is_up_is_not_started_twice(machine: Machine) -> None:
    with pytest.raises(UsageError, match="is up"):
        lab.up(machine.name)


STARTING = """
import sys
from runbooks_lib.training.lab import lab
lab.up(sys.argv[1], role_name="build-server", held=False)
"""


def test_the_machine_of_an_operator_killed_in_the_middle_of_up_is_found_and_ended_by_the_next_list(
    session_machine: Machine,
) -> None:
    name = f"crash-{os.getpid()}"
    with subprocess.Popen([sys.executable, "-c", STARTING, name]) as operator:
        end = time.monotonic() + 180
        machine = Machine(session_machine.directory.with_name(name))
        while not machine.directory.exists() or machine.record.process is None:
            assert time.monotonic() < end
            assert operator.poll() is None
            time.sleep(0.1)
        qemu = machine.record.process
        os.kill(operator.pid, signal.SIGKILL)
        operator.wait()
    assert qemu is not None
    assert qemu.alive, "it outlives its operator, and that is why somebody has to look"
    said = subprocess.run(
        [sys.executable, "-c", "from runbooks_lib.training.lab.commands import lab_host; lab_host(['list'])"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"{name}: ended, for the process that held it is gone" in said.stdout
    assert session_machine.name in said.stdout
    assert not qemu.alive
    assert not machine.directory.exists()
