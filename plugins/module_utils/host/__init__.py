"""The machine below the sites: programs, files, the Docker Engine, and what must hold before a change.

Runs on the host, inside modules; ``process``, ``engine`` and ``problems`` also on the control node. Knows no site.
"""
