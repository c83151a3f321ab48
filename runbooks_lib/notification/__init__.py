"""Telling people: messages to the channels of the inventory, and silences while work is under way."""
