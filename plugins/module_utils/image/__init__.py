"""Images: read a project, build the base, keep the layers, send the missing ones.

Runs on the control node, where images are built; only ``receiver`` runs on the host.
"""
