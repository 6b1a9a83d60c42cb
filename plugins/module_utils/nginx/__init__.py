"""Nginx's configuration and the certificates beside it.

Runs on the host, inside modules; ``tls_check`` runs on the control node, ``acme`` is also a command on the host.
"""
