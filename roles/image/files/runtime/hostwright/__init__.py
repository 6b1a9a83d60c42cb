"""The runtime: the package in a site's image that makes an unmodified Django project deployable."""

__version__ = "0.1.0"
