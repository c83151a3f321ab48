"""`make demo`: this machine over SSH beside the example past; again in seconds; nothing is left running."""

import re
import socket
import stat
from datetime import UTC, datetime, timedelta

import pytest

from runbooks_lib.history import SqliteHistory
from runbooks_lib.training import demo, example_past


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> demo.Demo:
    return demo.run(tmp_path_factory.mktemp("demo dir") / "out")


def test_one_line_says_where_the_page_is_and_what_it_says(made: demo.Demo) -> None:
    assert "\n" not in made.sentence
    assert made.sentence.startswith("file://")
    assert "/example/db on example-host will pass 90 %" in made.sentence
    assert made.page.is_file()
    assert made.run.state == "threshold"


def test_this_machine_stands_beside_the_example_and_each_is_marked(made: demo.Demo) -> None:
    assert made.partitions_read >= 1
    page = made.page.read_text()
    assert demo.LIVE_HOST in page
    assert "measured: this machine" in page
    assert "example data" in page


def test_the_keys_are_private_and_the_ssh_server_is_gone(made: demo.Demo) -> None:
    directory = made.page.parents[2]
    keys = list((directory / "practice-host").glob("*ed25519"))
    assert keys
    assert all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)
    ports = re.findall(r"Port (\d+)", (directory / "practice-host/ssh_config").read_text())
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", int(ports[0])))


def test_a_second_run_adds_to_the_first_and_an_example_of_another_day_is_made_anew(made: demo.Demo) -> None:
    directory = made.page.parents[2]
    again = demo.run(directory)
    assert again.page != made.page
    assert made.page.is_file()

    path = directory / "history.sqlite"
    for part in directory.glob("history.sqlite*"):
        part.unlink()
    with SqliteHistory(path) as history:
        example_past.write(history, now=datetime.now(UTC) - timedelta(days=9))
    third = demo.run(directory)
    assert third.run.state == "threshold"
    with SqliteHistory(path) as history:
        past = history.filesystem(example_past.DEFAULT_INSTANCE, "/example/db")
    assert past is not None
    assert datetime.now(UTC) - past.last_time < timedelta(hours=2)
