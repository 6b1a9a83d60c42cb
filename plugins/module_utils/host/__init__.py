"""The host itself, independent of any site: programs, files, the Docker Engine, and the checks before a change.

Runs on the host, inside modules; ``process``, ``engine`` and ``problems`` run on the control node too.
"""
