"""Checking an installation: every operation against a float64 oracle."""
