"""The audit of a host: look from inside, scan from outside, judge both.

``inside`` runs on the host, ``outside`` on the control node, ``judge`` on both.
"""
