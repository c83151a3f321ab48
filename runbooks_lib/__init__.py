"""Runbook notebooks that on-call engineers trust: the small library behind them."""

__version__ = "0.1.0"
