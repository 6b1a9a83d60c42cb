"""Firewall and SSH server of a host, changed without locking out the operator.

Runs on the host, inside the module host_access.
"""
