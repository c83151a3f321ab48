"""How fast many hosts are read, beside OpenSSH and Ansible in the same run: `python -m benchmarks.collect`."""
