"""Releases of a site: the transaction that makes one live, and what it consists of.

Runs on the host, inside the modules release, rollback, restore and rotate.
"""
