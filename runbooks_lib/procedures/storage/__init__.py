"""More space for one mount point, at once and safely: one way per module, surveyed before any of them is offered."""
