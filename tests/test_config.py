"""runbooks.toml: what is read, and that every mistake is told at once."""

from datetime import date
from pathlib import Path

import pytest

from runbooks_lib import config
from runbooks_lib.ansible_inventory import AnsibleHost
from runbooks_lib.errors import ExitCode, UsageError

WHOLE = """
outputs = "out"
ssh_config = "ssh/config"
[defaults]
threshold_ratio = 0.8
lead_time_days = 7
[history]
path = "past.sqlite"
[collect]
workers = 4
deadline_seconds = 5
[hosts.tc-db-01]
groups = ["databases", "ci"]
ssh = "tc-db-01.internal"
sudo_password = "env:TC_DB_SUDO"
note = "owned by build tools"
[hosts.tc-db-01.partitions."/srv/db"]
database = true
threshold_ratio = 0.85
lead_time_days = 21
[hosts.tc-db-01.partitions."/var/log/"]
[hosts.web-1]
groups = ["web"]
[hosts.me]
local = true
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "runbooks.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes_of(directory: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        config.load(written(directory, text))
    assert caught.value.exit_code is ExitCode.USAGE
    return str(caught.value)


def test_channels_are_read_and_their_mistakes_tell_no_address(tmp_path: Path) -> None:
    loaded = config.load(
        written(
            tmp_path,
            """
[notify]
pages = "https://reports.example/outputs"
[notify.channels.chat]
kind = "webhook"
url = "env:CHAT_URL"
[notify.channels.mail]
kind = "mail"
server = "mail.example"
sender = "runbooks@example.org"
to = ["oncall@example.org"]
user = "runbooks"
password = "file:/run/secrets/mail"
[notify.alertmanager]
url = "http://127.0.0.1:9093"
token = "env:AM_TOKEN"
""",
        )
    )
    assert loaded.notify.channels["mail"].tls == "starttls"
    assert loaded.notify.references == ("env:CHAT_URL", "file:/run/secrets/mail", "env:AM_TOKEN")
    told = mistakes_of(
        tmp_path,
        """
[notify]
chanels = 1
[notify.channels.a]
kind = "pigeon"
[notify.channels.b]
kind = "webhook"
url = "hooks.example/T0-secret"
[notify.channels.c]
kind = "webhook"
url = "https://hooks.example/T0-secret"
to = ["x@example.org"]
[notify.channels.d]
kind = "apprise"
url = "slack://T0-secret"
[notify.channels.e]
kind = "mail"
server = "mail.example"
sender = "nobody"
to = ["x@example.org"]
""",
    )
    assert "5 mistakes" not in told
    assert "6 mistakes" in told
    assert "notify.chanels: found an unknown key, expected channels" in told
    assert "only body, token, url beside kind = 'webhook', not to" in told
    assert "such addresses hold passwords" in told
    assert """notify.channels.a.kind: found "pigeon", expected one of 'webhook', 'mail' or 'apprise'""" in told
    assert "T0-secret" not in told


def test_a_whole_file_is_read_with_paths_beside_it_and_defaults_filled_in(tmp_path: Path) -> None:
    loaded = config.load(written(tmp_path, WHOLE))
    assert loaded.outputs == tmp_path / "out"
    assert loaded.ssh_config == tmp_path / "ssh/config"
    assert loaded.history.path == tmp_path / "past.sqlite"
    assert loaded.collect.workers == 4
    database = loaded.hosts["tc-db-01"]
    assert (database.ssh_name, database.groups) == ("tc-db-01.internal", ("databases", "ci"))
    assert database.partition("/srv/db") == config.PartitionSettings("/srv/db", True, 0.85, 21)
    assert database.partition("/var/log") == config.PartitionSettings("/var/log", False, 0.8, 7)
    assert database.partition("/other") == config.PartitionSettings("/other", False, 0.8, 7, listed=False)
    assert loaded.hosts["me"].local
    assert loaded.groups == ("ci", "databases", "web")


def test_an_almost_empty_file_has_the_history_under_outputs(tmp_path: Path) -> None:
    loaded = config.load(written(tmp_path, "[hosts.a]\n"))
    assert loaded.history.path == tmp_path / "outputs/history.sqlite"
    assert loaded.hosts["a"].ssh_name == "a"


def test_hosts_are_chosen_by_name_or_group_and_a_wrong_one_is_told_with_what_there_is(tmp_path: Path) -> None:
    loaded = config.load(written(tmp_path, WHOLE))
    assert [entry.name for entry in loaded.select()] == ["tc-db-01", "web-1", "me"]
    assert [entry.name for entry in loaded.select(group="databases")] == ["tc-db-01"]
    assert [entry.name for entry in loaded.select(host=["web-1", "web-1"])] == ["web-1"]
    with pytest.raises(UsageError, match="no such host: tc-db-1") as caught:
        loaded.select(host="tc-db-1")
    assert "did you mean tc-db-01?" in str(caught.value)
    with pytest.raises(UsageError, match="no such group: database"):
        loaded.select(group="database")
    with pytest.raises(UsageError, match="both given"):
        loaded.select(host="me", group="web")


def test_every_mistake_is_told_at_once_with_key_found_and_expected(tmp_path: Path) -> None:
    told = mistakes_of(
        tmp_path,
        """
outputz = "x"
[defaults]
threshold_ratio = 90
[history]
path = "a"
url = "http://x"
[collect]
workerz = 3
[hosts.a]
groups = "db"
[hosts.a.partitions."srv/db"]
[hosts.a.partitions."/srv/db"]
databse = true
lead_time_days = 1.5
[hosts."b c"]
foo = 1
""",
    )
    assert "runbooks.toml: 10 mistakes" in told
    assert "defaults.threshold_ratio: found 90, expected at most 1 (0.9 means 90 %)" in told
    assert "collect.workerz: found an unknown key, expected workers" in told
    assert 'hosts.a.groups: found "db", expected a list' in told
    assert 'hosts.a.partitions."srv/db"' in told
    assert 'hosts.a.partitions."/srv/db".databse: found an unknown key, expected database' in told
    assert 'hosts.a.partitions."/srv/db".lead_time_days: found 1.5, expected a whole number' in told
    assert 'hosts."b c"' in told
    assert "outputz: found an unknown key, expected outputs" in told
    assert "not both" in told
    assert "nothing was done" in told


@pytest.mark.parametrize("key", ["sudo_password"])
def test_a_secret_written_where_a_reference_belongs_is_refused_and_not_repeated(tmp_path: Path, key: str) -> None:
    told = mistakes_of(tmp_path, f'[hosts.a]\n{key} = "hunter2-canary"\n')
    assert "hunter2-canary" not in told
    assert '"env:NAME" or "file:/path"' in told


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("[hosts.a.services.ci]", "teamcity"),
        ("[hosts.a.services.ci]", "health"),
        ("[hosts.a.services.ci]", "certificate"),
        ("[history]", "url"),
        ("[notify.alertmanager]", "url"),
        ("[notify]", "pages"),
    ],
)
@pytest.mark.parametrize("address", ["https://admin:canary@ci.example/x", "https://admin:can/canary@ci", "a:canary@ci"])
def test_a_password_in_an_address_is_refused_as_that_and_not_repeated(
    tmp_path: Path, table: str, key: str, address: str
) -> None:
    told = mistakes_of(tmp_path, f'[hosts.a]\n{table}\n{key} = "{address}"\n')
    assert f".{key}: found" in told
    assert "canary" not in told
    if address.endswith("/x") and key != "certificate":
        assert "expected an address without a user and a password in it" in told


@pytest.mark.parametrize("port", ["84430", "0", "http", "", "44 3"])
def test_a_port_that_cannot_be_is_a_mistake_of_the_address(tmp_path: Path, port: str) -> None:
    services = f'[hosts.a.services.ci]\nhealth = "https://ci:{port}/"\ncertificate = "ci:{port}"\n'
    told = mistakes_of(tmp_path, services)
    assert "hosts.a.services.ci.health: found" in told
    assert 'expected a host and a port (1 to 65535) such as "ldap.example.com:636"' in told


@pytest.mark.parametrize("address", ["http://x", "https://ci:65535", "http://[::1]:8111/a@b", "https://ci/?a=b#c"])
def test_an_address_may_have_a_port_and_a_path(tmp_path: Path, address: str) -> None:
    loaded = config.load(written(tmp_path, f'[hosts.a.services.ci]\nhealth = "{address}"\n'))
    assert loaded.hosts["a"].services[0].health == address


def test_broken_toml_is_told_with_its_line(tmp_path: Path) -> None:
    told = mistakes_of(tmp_path, "[hosts.a\n")
    assert "not TOML" in told
    assert "line 1" in told


def test_bytes_that_are_no_text_and_a_missing_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "runbooks.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        config.load(path)
    with pytest.raises(UsageError, match="no such file"):
        config.load(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        config.load(tmp_path)


@pytest.mark.parametrize("line", ['outputs = "~nosuchuser/out"', 'ssh_config = "~nosuchuser/config"'])
def test_the_home_of_nobody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    with pytest.raises(UsageError, match="no user has the home directory of ~nosuchuser"):
        config.load(written(tmp_path, f"{line}\n"))
    with pytest.raises(UsageError, match="no user has the home directory of ~nosuchuser"):
        config.load("~nosuchuser/runbooks.toml")
    monkeypatch.setenv(config.CONFIG_ENV, "~nosuchuser/runbooks.toml")
    with pytest.raises(UsageError, match="no user has the home directory of ~nosuchuser"):
        config.load()


def test_a_host_that_ansible_reaches_without_ssh_is_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (AnsibleHost("here", "here", local=True), AnsibleHost("there", "there"))
    monkeypatch.setattr("runbooks_lib.ansible_inventory.read_inventory", lambda _: found)
    loaded = config.load(written(tmp_path, '[ansible]\ninventory = "hosts"\n'))
    assert {name: entry.local for name, entry in loaded.hosts.items()} == {"here": True, "there": False}


def test_the_file_is_found_in_a_parent_directory_or_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, WHOLE)
    below = tmp_path / "notebooks" / "capacity"
    below.mkdir(parents=True)
    monkeypatch.delenv(config.CONFIG_ENV, raising=False)
    monkeypatch.chdir(below)
    assert config.find() == path
    monkeypatch.setenv(config.CONFIG_ENV, "/elsewhere/runbooks.toml")
    assert config.find() == Path("/elsewhere/runbooks.toml")


def test_without_any_file_the_next_step_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(config.CONFIG_ENV, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    if any((parent / config.CONFIG_NAME).exists() for parent in tmp_path.parents):
        pytest.fail("a runbooks.toml stands above the test's directory")
    with pytest.raises(UsageError, match=r"no runbooks\.toml") as caught:
        config.load()
    assert "runbook init" in str(caught.value)


def test_a_number_of_a_thousand_digits_and_a_nul_in_a_path_are_mistakes_and_no_tracebacks(tmp_path: Path) -> None:
    assert "not TOML" in mistakes_of(tmp_path, f"[collect]\nworkers = {'9' * 5001}\n")
    assert "NUL" in mistakes_of(tmp_path, 'outputs = "a\\u0000b"\n')


def test_lead_time_counts_days_or_working_days_and_a_partition_overrides_both(tmp_path: Path) -> None:
    text = """
        [defaults]
        lead_time_working_days = 10
        working_week = ["Sun", "Mon"]
        holidays = [2026-12-25]
        [hosts.a.partitions."/days"]
        lead_time_days = 3
        [hosts.a.partitions."/default"]
    """
    entry = config.load(written(tmp_path, text)).hosts["a"]
    assert entry.partition("/days").lead_time_working_days is None
    assert entry.partition("/days").lead_time_days == 3
    for place in ("/default", "/not/listed"):
        settings = entry.partition(place)
        assert settings.lead_time_working_days == 10
        assert settings.calendar == config.Calendar(("Sun", "Mon"), (date(2026, 12, 25),))


def test_two_lead_times_or_a_holiday_in_quotes_are_mistakes(tmp_path: Path) -> None:
    text = """
        [defaults]
        lead_time_days = 3
        lead_time_working_days = 2
        holidays = ["2026-12-25"]
        [plan]
        risk = 5
    """
    told = mistakes_of(tmp_path, text)
    assert 'defaults.holidays.0: found "2026-12-25", expected a date without quotes' in told
    assert "plan.risk: found 5, expected less than 1" in told


def test_both_lead_times_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="either lead_time_days or lead_time_working_days, not both"):
        config.load(written(tmp_path, "[defaults]\nlead_time_days = 3\nlead_time_working_days = 2\n"))
