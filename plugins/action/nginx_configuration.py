"""Judge what Nginx is to serve and render its configuration (action side of ``nginx_configuration``)."""

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
SHARED = ("nginx.conf", "scripts/hold.js", "pages/unavailable.html")  # files that are no site's
Render = Callable[..., str]  # a template's text: by its name, with more variables than the role's by theirs


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Runs on the control node, where the templates and certificates are, and hands the texts to the host."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module of this name changed on the host; with ``state: checked`` no host is asked.

        Raises:
            AnsibleActionFail: something cannot work; the message names all of it, and shows no key.
        """
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(SPEC, required_if=REQUIRED_IF)
        verdicts = _judged(options)
        if options["state"] == "checked":
            warnings = [f"The certificate of {site}: {text}." for site in verdicts for text in verdicts[site].warnings]
            return {"changed": False, "warnings": warnings}
        sites, by_ca = options["sites"], options["tls"] == "acme"
        asked = {
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
                "acme": asked,
            },
            task_vars=task_vars,
        )
        return {**result, "acme": asked}

    def _render(self, template: str, **variables: Any) -> str:
        """Render a template of the role as a task of the role would."""
        text: str = self._templar.evaluate_expression(
            trust_as_template("lookup('ansible.builtin.template', template, template_vars=variables)"),
            local_variables={"template": template, "variables": variables},
        )
        return text


def files_of(render: Render, sites: Sequence[Mapping[str, Any]], *, encrypted: bool) -> dict[str, str]:
    """Texts of all files of the configuration, by their paths in its directory."""
    return {name: render(f"{name}.j2") for name in SHARED} | site_files(render, sites, encrypted=encrypted)


def site_files(render: Render, sites: Sequence[Mapping[str, Any]], *, encrypted: bool) -> dict[str, str]:
    """Texts of the sites' files, by their paths; ``encrypted`` sites have a certificate, the others are plain HTTP."""
    return {
        f"sites/{site['name']}.conf": render("sites/site.conf.j2", __nginx_site=site, __nginx_encrypted=encrypted)
        for site in sites
    }


def _judged(options: Mapping[str, Any]) -> Mapping[str, Verdict]:
    """Judge all that was given; return the verdicts on certificates by site.

    Raises:
        AnsibleActionFail: something cannot work.
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
    """A site's certificate as the host keeps it."""
    return {
        "site": site["name"],
        "names": site["domains"],
        "certificate": site["certificate"],
        "key": site["certificate_key"],
        "expires": f"{verdict.expires:%Y-%m-%dT%H:%M:%SZ}",
    }
