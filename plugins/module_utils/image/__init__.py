"""Images: read a project, build the base image, store the layers, send the missing ones to hosts.

Runs on the control node and the builder; only ``receiver`` runs on the host.
"""
