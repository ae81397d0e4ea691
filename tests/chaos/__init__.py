"""Faults on the real server under load: `scripts/chaos`."""
