"""The audit of a host: inspect it from inside, scan it from outside, judge both results.

``inside`` runs on the host, ``outside`` on the control node, ``judge`` on both.
"""
