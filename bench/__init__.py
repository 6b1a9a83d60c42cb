"""Hostwright's measurements: `make bench`."""
