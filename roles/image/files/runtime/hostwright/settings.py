"""The settings overlay: the project's settings, replaced only where the deployment decides.

``DJANGO_SETTINGS_MODULE`` names this module, ``HOSTWRIGHT_SETTINGS`` the project's.
"""

import importlib
import os

import django

from hostwright import configuration as _configuration
from hostwright.errors import ConfigurationError
from hostwright.overlay import overlay, require_django


def _settings() -> dict[str, object]:
    require_django(django.VERSION, django.get_version())
    release = _configuration.load()
    _configuration.export(release)
    name = os.environ.get("HOSTWRIGHT_SETTINGS")
    if not name:
        raise ConfigurationError(
            "HOSTWRIGHT_SETTINGS is not set: it names the project's settings module (mysite.settings)."
        )
    module = importlib.import_module(name)
    project = {setting: getattr(module, setting) for setting in dir(module) if setting.isupper()}
    keys = _configuration.secret_key(release), _configuration.secret_key_fallbacks(release)
    decided = overlay(project, release, *keys)
    # Code that imports the project's settings module instead of django.conf.settings sees the same values.
    for setting, value in decided.items():
        setattr(module, setting, value)
    return {**project, **decided}


globals().update(_settings())
