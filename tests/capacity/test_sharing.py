"""Several partitions on one volume group."""

from __future__ import annotations

from runbooks_lib.capacity.sharing import shares


def test_who_must_begin_first_is_given_first_and_a_part_is_given_to_nobody() -> None:
    first, second, third = shares(40, [("/srv/db", 30), ("/srv/log", 25), ("/home", 10)])
    assert (first.given, first.left_bytes) == (True, 40)
    assert (second.given, second.left_bytes) == (False, 10)
    assert (third.given, third.left_bytes) == (True, 10), "what the second cannot use is offered to the next"
    assert shares(0, [("/", 1)])[0].given is False
