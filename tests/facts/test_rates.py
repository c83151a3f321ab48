from dataclasses import replace

from runbooks_lib.facts.cpu import Cpu, CpuTimes
from runbooks_lib.facts.disk_io import DiskCounters
from runbooks_lib.facts.fact import State
from runbooks_lib.facts.memory import Paging
from runbooks_lib.facts.network import InterfaceCounters
from runbooks_lib.facts.pressure import Pressure, Stall
from runbooks_lib.facts.rates import Counters, cpu_shares, disk_rates, increase, increase_32bit, interface_rates, rates
from runbooks_lib.facts.tcp import Protocols

TIMES = CpuTimes(100, 10, 50, 1000, 20, 1, 2, 3, 40, 5)
DISK = DiskCounters(1000, 0, 10**9, 5.0, 2000, 0, 10**10, 8.0, 0, 7.0, 13.0)
CARD = InterfaceCounters(1000, 10, 0, 0, 2000, 20, 0, 0, 0, 0, 0, 0, 0)
WRAP = 2**32 / 1000


def test_a_counter_that_went_back_has_no_growth() -> None:
    assert increase(5, 7) == 2
    assert increase(7, 5) is None


def test_a_32_bit_counter_may_wrap_once_when_that_is_possible() -> None:
    assert increase_32bit(2**32 - 10, 5, at_most=1000) == 15
    assert increase_32bit(5, 9, at_most=1000) == 4


def test_a_reset_is_not_taken_for_a_wrap() -> None:
    assert increase_32bit(1000, 5, at_most=1000) is None
    assert increase_32bit(2**31, 0, at_most=2**30) is None


def test_a_value_beyond_32_bits_never_wraps() -> None:
    assert increase_32bit(2**40, 5, at_most=2**50) is None


def test_shares_of_cpu_add_up_to_one_and_guests_are_counted_once() -> None:
    after = replace(TIMES, user=103, guest=42, system=51, idle=1005, nice=11, guest_nice=5.5)
    shares = cpu_shares(TIMES, after)
    assert shares is not None
    total = (
        shares.user
        + shares.nice
        + shares.system
        + shares.idle
        + shares.iowait
        + shares.irq
        + shares.softirq
        + shares.steal
    )
    assert abs(total + shares.guest - 1) < 1e-9
    assert abs(shares.guest - 0.25) < 1e-9
    assert abs(shares.busy - 0.5) < 1e-9


def test_iowait_that_goes_back_a_little_counts_as_nothing() -> None:
    shares = cpu_shares(TIMES, replace(TIMES, idle=1010, iowait=19.5))
    assert shares is not None
    assert shares.iowait == 0
    assert shares.idle == 1


def test_cpu_counters_that_were_reset_give_no_shares() -> None:
    assert cpu_shares(TIMES, replace(TIMES, user=1, idle=2000)) is None
    assert cpu_shares(TIMES, replace(TIMES, idle=900)) is None
    assert cpu_shares(TIMES, TIMES) is None


def test_the_rates_of_a_disk() -> None:
    after = replace(
        DISK, reads=1100, read_bytes=10**9 + 4096000, read_seconds=5.5, busy_seconds=7.5, weighted_seconds=14.0
    )
    found = disk_rates(DISK, after, 2.0)
    assert found.reads_per_second == 50
    assert found.read_bytes_per_second == 2048000
    assert found.read_wait_seconds == 0.005
    assert found.write_wait_seconds is None
    assert found.busy_ratio == 0.25
    assert found.queue == 0.5


def test_the_milliseconds_of_a_disk_wrap_after_49_days() -> None:
    before = replace(DISK, busy_seconds=WRAP - 0.5, weighted_seconds=WRAP - 1, read_seconds=WRAP - 0.1)
    after = replace(before, reads=1001, busy_seconds=0.5, weighted_seconds=1.0, read_seconds=0.1)
    found = disk_rates(before, after, 2.0)
    assert found.busy_ratio is not None
    assert abs(found.busy_ratio - 0.5) < 1e-6
    assert found.queue is not None
    assert abs(found.queue - 1.0) < 1e-6


def test_a_disk_that_was_replaced_has_no_rates_and_no_nonsense() -> None:
    before = replace(DISK, reads=10**9, writes=10**9, read_bytes=10**15, written_bytes=10**15)
    found = disk_rates(
        before, replace(DISK, busy_seconds=0.1, weighted_seconds=0.1, read_seconds=0.1, write_seconds=0.1), 60.0
    )
    assert (found.reads_per_second, found.writes_per_second, found.read_bytes_per_second) == (None, None, None)
    assert (found.busy_ratio, found.queue, found.read_wait_seconds) == (None, None, None)


def test_over_weeks_the_wrapping_times_are_not_known() -> None:
    found = disk_rates(DISK, replace(DISK, reads=2000, busy_seconds=8.0), 60 * 86400.0)
    assert found.busy_ratio is None
    assert found.reads_per_second is not None


def test_an_interface_that_was_made_anew_has_no_rates() -> None:
    found = interface_rates(CARD, replace(CARD, receive_bytes=10, transmit_bytes=4000), 1.0)
    assert found.receive_bytes_per_second is None
    assert found.transmit_bytes_per_second == 2000


def counters(boot: str = "a", uptime: float = 100.0, **more: object) -> Counters:
    return Counters(boot, uptime, **more)  # type: ignore[arg-type]


def test_two_readings_of_different_boots_have_no_rates() -> None:
    assert rates(counters("a"), counters("b", 200.0)).state is State.ABSENT
    assert rates(counters(""), counters("", 200.0)).state is State.ABSENT
    assert rates(counters(uptime=200.0), counters(uptime=100.0)).state is State.ABSENT


def test_the_rates_of_everything_at_once() -> None:
    stall = Stall(0, 0, 0, 5.0)
    before = counters(
        cpu=Cpu(TIMES, ((0, TIMES),), 5, 1000, 50, 1, 0, 1),
        disks={"sda": DISK},
        interfaces={"eth0": CARD},
        protocols=Protocols({"Tcp_RetransSegs": 10, "Tcp_OutSegs": 1000}),
        paging=Paging({"pswpin": 5, "oom_kill": 3}),
        pressure={"io": Pressure(stall, stall)},
    )
    later = replace(TIMES, user=101, idle=1001)
    after = counters(
        uptime=102.0,
        cpu=Cpu(later, ((0, later), (1, later)), 5, 1400, 52, 1, 0, 1),
        disks={"sda": DISK, "sdb": DISK},
        interfaces={"eth0": CARD, "eth1": CARD},
        protocols=Protocols({"Tcp_RetransSegs": 15, "Tcp_OutSegs": 1100}),
        paging=Paging({"pswpin": 9, "oom_kill": 2, "pgfault": 5}),
        pressure={"io": Pressure(replace(stall, total_seconds=6.0), None), "cpu": Pressure(stall, None)},
    )
    found = rates(before, after).require()
    assert found.window_seconds == 2.0
    assert found.cpu is not None
    assert found.cpu.user == 0.5
    assert set(found.cpu_each) == {0}
    assert found.context_switches_per_second == 200
    assert set(found.disks) == {"sda"}
    assert set(found.interfaces) == {"eth0"}
    assert found.retransmits_per_second == 2.5
    assert found.retransmit_ratio == 0.05
    assert found.paging == {"pswpin": 2.0}
    assert found.pressure_ratio == {("io", "some"): 0.5}
