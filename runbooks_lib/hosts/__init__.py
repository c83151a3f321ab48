"""Where commands run: hosts over SSH, this machine, recordings; and many of them at once."""

import sys

if "paramiko" not in sys.modules and "invoke" not in sys.modules:
    # paramiko brings in invoke, and with it asyncio and unittest, for `Match exec`, which we refuse: 9 MB and 60 ms of
    # every start. It goes without where there is none.
    sys.modules["invoke"] = None  # type: ignore[assignment]
    try:
        import paramiko  # noqa: F401
    finally:
        del sys.modules["invoke"]
