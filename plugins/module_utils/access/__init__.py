"""Firewall and SSH server: changed so that the operator is not locked out.

Runs on the host, inside the module host_access.
"""
