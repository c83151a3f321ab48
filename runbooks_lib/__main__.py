"""`python -m runbooks_lib`: the `runbook` command where no script is on the path (timers, other schedulers)."""

from runbooks_lib.cli import main

if __name__ == "__main__":
    main()
