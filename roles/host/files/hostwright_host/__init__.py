"""The host command: manages the sites of this host.

It reads records and calls Docker. It never opens a database: the host's SQLite may have the bug that corrupts one, so
only programs in the site's image do. It needs only Python 3.11 and the modules that are installed with it.
"""
