"""The documented options of an action plugin agree with its argument specification."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.hostwright.django.plugins.action import build_image, nginx_configuration, push_image
from ansible_collections.hostwright.django.plugins.modules import build_image as build_image_module
from ansible_collections.hostwright.django.plugins.modules import nginx_configuration as nginx_configuration_module
from ansible_collections.hostwright.django.plugins.modules import push_image as push_image_module

PAIRS = [
    (build_image, build_image_module),
    (nginx_configuration, nginx_configuration_module),
    (push_image, push_image_module),
]


def facts(options: dict[str, Any], inner: str) -> dict[str, Any]:
    """The properties of options that are both documented and checked; suboptions have the key ``inner``."""
    return {
        name: {key: option.get(key) for key in ("type", "elements", "choices", "required", "default")}
        | {"options": facts(option.get(inner) or {}, inner)}
        for name, option in options.items()
    }


@pytest.mark.parametrize(("action", "module"), PAIRS, ids=lambda plugin: plugin.__name__.split(".")[-1])
def test_documentation_and_spec_agree(action: Any, module: Any) -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert facts(documented, "suboptions") == facts(action.SPEC, "options")
