"""The procedures themselves: each module is a list of steps that reads like a checklist."""
