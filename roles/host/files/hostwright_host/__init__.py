"""The host command: look after the sites of this host.

It reads records and asks Docker. It never opens a database: the host's own SQLite may be one that corrupts it, so
that only programs in the site's image do. It needs nothing but Python 3.11 and the modules that are installed with it.
"""
