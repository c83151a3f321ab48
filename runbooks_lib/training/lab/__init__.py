"""The lab: practice machines that are real and can be broken.

`lab.up` (or `lab.held_machine`) gives a Machine: Debian in qemu with LVM, PostgreSQL, systemd and sshd, reached by
SshHost with its ordinary checks. `faults` breaks it, `Machine.reset` puts it back within seconds, `load.Load` writes
to its database and proves afterwards that nothing acknowledged was lost.
"""
