import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbooks_lib.facts.answer import Incomplete, end_marker, new_nonce, parse_answer
from runbooks_lib.facts.fact import Damaged, Fact, State
from runbooks_lib.facts.slow import SLOW_FACTS, parse_slow
from runbooks_lib.facts.snapshot import Snapshot, parse_snapshot

NONCE = "00112233445566778899aabbccddeeff"
HERE = Path(__file__).parent
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def framed(sections: dict[str, bytes]) -> bytes:
    text = b"\n@@%s begin 1\n" % NONCE.encode()
    for name, body in sections.items():
        text += b"\n@@%s %s\n" % (NONCE.encode(), name.encode()) + body
    return text + b"\n@@%s end\n" % NONCE.encode()


def real_answer() -> tuple[bytes, str]:
    case = json.loads((HERE / "answer" / "debian-12-dash.json").read_text())["output"]
    return "\n".join(case["stdout"]).encode(), case["nonce"]


def real_slow_answer() -> tuple[bytes, str]:
    case = json.loads((HERE / "slow_answer" / "debian-12-dash.json").read_text())["output"]
    return "\n".join(case["stdout"]).encode(), case["nonce"]


def snapshot(stdout: bytes, nonce: str = NONCE) -> Snapshot:
    return parse_snapshot("h", stdout, nonce, started=NOW, duration_seconds=1.0)


def assert_every_fact_is_a_value_or_a_reason(found: Snapshot) -> None:
    for name, fact in found.facts().items():
        assert isinstance(fact, Fact), name
        assert (fact.state is State.AVAILABLE) == (fact.value is not None), name
        assert fact.known or fact.detail, name
    for sample in found.samples():
        assert isinstance(sample.value, int | float)


def test_a_nonce_has_sixteen_random_bytes() -> None:
    assert len({new_nonce() for _ in range(100)}) == 100
    assert len(bytes.fromhex(new_nonce())) == 16


def test_chatter_before_the_begin_marker_and_words_after_the_end_are_ignored() -> None:
    answer = parse_answer(b"Welcome!\n@@end\n" + framed({"a": b"1\n"}) + b"@@late words", NONCE)
    assert answer.sections == {"a": "1\n"}


def test_an_answer_may_begin_with_its_marker_at_the_first_byte() -> None:
    assert parse_answer(framed({"a": b"1\n"})[1:], NONCE).sections == {"a": "1\n"}


def test_a_marker_without_the_nonce_is_only_text() -> None:
    body = b"x\n@@end\ny\n@@ffffffffffffffffffffffffffffffff end\n"
    assert parse_answer(framed({"a": body, "b": b"2\n"}), NONCE).sections == {"a": body.decode(), "b": "2\n"}


def test_a_marker_in_the_middle_of_a_line_is_only_text() -> None:
    body = f"x @@{NONCE} end\n".encode()
    assert parse_answer(framed({"a": body}), NONCE).sections["a"] == body.decode()


def test_bytes_that_are_not_utf8_are_shown_and_stay_storable() -> None:
    text = parse_answer(framed({"a": b"caf\xe9 \xff\n"}), NONCE).sections["a"]
    assert text == "caf\\xe9 \\xff\n"
    text.encode()


@pytest.mark.parametrize(
    ("stdout", "missing"),
    [
        (b"", "the begin marker"),
        (b"bash: sh: command not found", "the begin marker"),
        (framed({"a": b"1\n"}).replace(b"begin 1", b"begin 2"), "version"),
        (framed({"a": b"1\n"}).replace(b"begin 1", b"middle"), "the begin marker"),
        (framed({"a": b"1\n"})[:-10], "the end marker: the answer stops after section a"),
        (framed({"a": b"1\n", "b": b"2"})[:-38], "the end marker: the answer stops after section"),
        (framed({})[:-8], "right after its beginning"),
        (
            framed({"a": b"1\n"})[:-40] + framed({"a": b"2\n"}).partition(b"begin 1\n")[2],
            "one section a: it came twice",
        ),
    ],
)
def test_an_answer_that_is_not_whole_is_refused_with_what_is_missing(stdout: bytes, missing: str) -> None:
    with pytest.raises(Incomplete) as refusal:
        parse_answer(stdout, NONCE)
    assert missing in refusal.value.missing


def test_a_real_answer_cut_anywhere_is_refused() -> None:
    stdout, nonce = real_answer()
    end = stdout.index(end_marker(nonce)) + len(end_marker(nonce))
    for length in random.Random(5).sample(range(end), 400):
        with pytest.raises(Incomplete):
            snapshot(stdout[:length], nonce)
    assert snapshot(stdout[:end], nonce).cpu.known


def test_a_damaged_line_of_mountinfo_is_told_and_costs_no_other_file_system() -> None:
    mounts = b"28 1 253:0 / / rw - xfs /dev/vda rw\n29 28 ? / /srv rw - ext4 /dev/vdb rw\n"
    figures = b"4096 1000 500 400 100 50 /\n4096 1000 500 400 100 50 /srv\n"
    found = snapshot(framed({"mountinfo": mounts, "statfs-ids": b"28 29\n", "statfs": figures})).filesystems
    assert [(row.mountpoint, row.state) for row in found.require().rows] == [("/", State.AVAILABLE)]
    assert found.detail == "lines of mountinfo that are not in the kernel's format: 1"
    unknown = snapshot(framed({"mountinfo": mounts, "statfs-ids": b"28 29 30\n", "statfs": figures})).filesystems
    assert unknown.state is State.UNREADABLE


def test_a_nonce_that_is_none_is_refused() -> None:
    with pytest.raises(Damaged):
        parse_answer(framed({}), "x y")


def test_a_file_that_is_not_there_is_absent_and_one_that_may_not_be_read_not_allowed() -> None:
    found = snapshot(framed({"missing": b"absent /proc/loadavg\ndenied /proc/meminfo\n", "/proc/swaps": b""}))
    assert found.load.state is State.ABSENT
    assert "/proc/loadavg" in found.load.detail
    assert found.memory.state is State.NOT_ALLOWED
    assert found.swaps.state is State.UNREADABLE
    assert found.cpu.state is State.UNREADABLE
    assert found.pressure["cpu"].state is State.ABSENT
    assert "psi=1" in found.pressure["cpu"].detail
    assert_every_fact_is_a_value_or_a_reason(found)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_and_nothing_else_is_raised(stdout: bytes) -> None:
    with pytest.raises(Incomplete):
        snapshot(stdout)


SECTIONS = sorted(
    {*parse_answer(*real_answer()).sections, "df-kib", "df-inodes", "units", "postgres-7", "postgres-data-7"}
)
SLOW_SECTIONS = sorted({*parse_answer(*real_slow_answer()).sections, "psql 5", "postgres 5"})


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(SECTIONS), st.binary(max_size=200), max_size=12))
def test_arbitrary_sections_yield_states_and_never_raise(sections: dict[str, bytes]) -> None:
    stdout = framed(sections)
    if stdout.count(NONCE.encode()) == len(sections) + 2:
        assert_every_fact_is_a_value_or_a_reason(snapshot(stdout))


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 30))
def test_a_real_answer_with_damage_yields_states_and_never_raises(dice: random.Random, changes: int) -> None:
    stdout, nonce = real_answer()
    bodies = parse_answer(stdout, nonce).sections
    damaged: dict[str, bytes] = {}
    for name, body in bodies.items():
        content = bytearray(body.encode())
        for _ in range(changes if dice.random() < 0.5 else 0):
            if content:
                at = dice.randrange(len(content))
                how = dice.randrange(4)
                if how == 0:
                    content[at] = dice.randrange(256)
                elif how == 1:
                    del content[at : at + dice.randrange(40)]
                elif how == 2:
                    content[at:at] = dice.choice(
                        [b"9" * 30, b"-1", b"1e999", b"nan", b"\n", b" ", b"\x00", b"0x10", b"1_0"]
                    )
                else:
                    content[at:at] = bytes(content[at : at + dice.randrange(60)])
        if dice.random() < 0.95:
            damaged[name] = bytes(content).replace(b"\n@@", b"\n@")
    assert_every_fact_is_a_value_or_a_reason(snapshot(framed(damaged)))


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(SLOW_SECTIONS), st.binary(max_size=200) | st.just(b"[]") | st.just(b"null"), max_size=10
    )
)
def test_arbitrary_slow_sections_yield_states_and_never_raise(sections: dict[str, bytes]) -> None:
    stdout = framed(sections)
    if stdout.count(NONCE.encode()) == len(sections) + 2:
        found = parse_slow("h", stdout, NONCE, ask=SLOW_FACTS, time=NOW, mountpoint="/")
        for value in vars(found).values():
            assert not isinstance(value, Fact) or value.known or value.detail


def test_what_was_not_asked_of_the_slow_script_is_none() -> None:
    found = parse_slow("h", framed({"uid": b"0\n"}), NONCE, ask=("lvm",), time=NOW)
    assert found.postgres is None
    assert found.lvm is not None
    assert found.lvm.state is State.UNREADABLE


def test_a_fact_that_is_required_says_what_is_the_matter() -> None:
    from runbooks_lib.facts.fact import FactMissing

    with pytest.raises(FactMissing) as refusal:
        snapshot(framed({})).memory.require("memory", "db1")
    assert str(refusal.value).startswith("db1: memory is unreadable")
