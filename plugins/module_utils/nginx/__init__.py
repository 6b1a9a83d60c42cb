"""Nginx's configuration and the sites' certificates.

Runs on the host, inside modules; ``tls_check`` runs on the control node, ``acme`` is also a command on the host.
"""
