"""Where commands run: hosts over SSH, this machine, recordings; and many of them at once."""
