"""The runtime: what a site's image carries to make an unmodified Django project deployable."""

__version__ = "0.1.0"
