"""Check Nginx's settings and render its configuration (action part of ``nginx_configuration``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template
from ansible_collections.hostwright.django.plugins.module_utils.nginx import judge
from ansible_collections.hostwright.django.plugins.module_utils.nginx.tls_check import Verdict

SITE = {
    "name": {"type": "str", "required": True},
    "domains": {"type": "list", "elements": "str", "required": True},
    "static_url": {"type": "str", "default": "/static/"},
    "media_url": {"type": "str", "default": ""},
    "timeout": {"type": "int", "default": 60},
    "certificate": {"type": "str", "default": ""},
    "certificate_key": {"type": "str", "default": "", "no_log": True},
    "login_path": {"type": "str", "default": ""},
    "extra": {"type": "str", "default": ""},
}
ACME = {key: {"type": "str", "required": True} for key in ("directory", "email", "ca")}
SPEC = {
    "state": {"type": "str", "choices": ["checked", "present"], "required": True},
    "sites": {"type": "list", "elements": "dict", "required": True, "options": SITE},
    "tls": {"type": "str", "choices": ["off", "files", "acme"], "required": True},
    "acme": {"type": "dict", "required": True, "options": ACME},
    "http_port": {"type": "int"},
    "https_port": {"type": "int"},
    "addresses": {"type": "list", "elements": "str"},
    "tmp": {"type": "str"},
    "tls_hsts": {"type": "int"},
    "login_rate": {"type": "str"},
    "directory": {"type": "path"},
    "image": {"type": "str"},
    "container": {"type": "str"},
}
REQUIRED_IF = [
    ("state", "checked", ["http_port", "https_port", "addresses", "tmp", "tls_hsts", "login_rate"]),
    ("state", "present", ["directory", "image", "container"]),
]
SHARED = ("nginx.conf", "scripts/hold.js", "pages/unavailable.html")  # files for all sites
Render = Callable[..., str]  # renders a template, given by name, with additional variables as keyword arguments


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Runs on the control node, where templates and certificates are, and passes the rendered texts to the module."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check the settings; with ``state: present``, run the module on the host and return its result.

        Raises:
            AnsibleActionFail: settings are wrong; the message names all faults, and never shows a key.
        """
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(SPEC, required_if=REQUIRED_IF)
        verdicts = _check(options)
        if options["state"] == "checked":
            warnings = [f"The certificate of {site}: {text}." for site in verdicts for text in verdicts[site].warnings]
            return {"changed": False, "warnings": warnings}
        sites, by_ca = options["sites"], options["tls"] == "acme"
        acme = {
            site["name"]: {"names": site["domains"], **{key: options["acme"][key] for key in ACME}}
            for site in (sites if by_ca else [])
        }
        result: dict[str, Any] = self._execute_module(
            module_name="hostwright.django.nginx_configuration",
            module_args={
                **{key: options[key] for key in ("directory", "image", "container")},
                "files": files_of(self._render, sites, encrypted=options["tls"] != "off"),
                "plain": site_files(self._render, sites, encrypted=False) if by_ca else {},
                "certificates": [_pair(site, verdicts[site["name"]]) for site in sites if site["name"] in verdicts],
                "acme": acme,
            },
            task_vars=task_vars,
        )
        return {**result, "acme": acme}

    def _render(self, template: str, **variables: Any) -> str:
        """Render a template like a task of the role."""
        text: str = self._templar.evaluate_expression(
            trust_as_template("lookup('ansible.builtin.template', template, template_vars=variables)"),
            local_variables={"template": template, "variables": variables},
        )
        return text


def files_of(render: Render, sites: Sequence[Mapping[str, Any]], *, encrypted: bool) -> dict[str, str]:
    """Return the texts of all files of the configuration, by their paths in its directory."""
    return {name: render(f"{name}.j2") for name in SHARED} | site_files(render, sites, encrypted=encrypted)


def site_files(render: Render, sites: Sequence[Mapping[str, Any]], *, encrypted: bool) -> dict[str, str]:
    """Return the texts of the sites' files, by path; ``encrypted``: for HTTPS with a certificate, else plain HTTP."""
    return {
        f"sites/{site['name']}.conf": render("sites/site.conf.j2", __nginx_site=site, __nginx_encrypted=encrypted)
        for site in sites
    }


def _check(options: Mapping[str, Any]) -> Mapping[str, Verdict]:
    """Check all options; return the verdicts on certificates by site.

    Raises:
        AnsibleActionFail: options are wrong.
    """
    sites = options["sites"]
    verdicts: dict[str, Verdict] = {}
    wrong = [*judge.wrong_settings(options)] if options["state"] == "checked" else []
    wrong += judge.wrong_sites(sites)
    if options["tls"] == "acme":
        wrong += judge.wrong_requests(options["acme"], sites)
    if options["tls"] == "files":
        verdicts, refused = judge.judge_certificates(sites, datetime.now(UTC))
        wrong += refused
    if wrong:
        raise AnsibleActionFail("\n".join([*wrong, "Nothing was changed."]))
    return verdicts


def _pair(site: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """Return a site's certificate in the form that the module expects."""
    return {
        "site": site["name"],
        "names": site["domains"],
        "certificate": site["certificate"],
        "key": site["certificate_key"],
        "expires": f"{verdict.expires:%Y-%m-%dT%H:%M:%SZ}",
    }
