"""Judge certificates on the control node, before anything reaches a host (action side of ``certificate``)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.hostwright.django.plugins.module_utils.nginx.tls_check import CertificateError, judge

SITE = {
    "name": {"type": "str", "required": True},
    "domains": {"type": "list", "elements": "str", "required": True},
    "certificate": {"type": "str", "default": ""},
    "key": {"type": "str", "default": "", "no_log": True},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Runs on the control node alone: the certificates come from there, and so does the library."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return when each certificate expires.

        Raises:
            AnsibleActionFail: one must not be served; the message says why for each, and shows no key.
        """
        super().run(tmp, task_vars)
        spec = {"sites": {"type": "list", "elements": "dict", "required": True, "options": SITE}}
        _, options = self.validate_argument_spec(spec)
        now = datetime.now(UTC)
        expires, problems, warnings = {}, [], []
        for site in options["sites"]:
            name = site["name"]
            try:
                verdict = _judged(site, now)
            except CertificateError as error:
                problems.append(f"{name}: {error}.")
                continue
            expires[name] = f"{verdict.expires:%Y-%m-%dT%H:%M:%SZ}"
            warnings += [f"The certificate of {name}: {text}." for text in verdict.warnings]
        if problems:
            raise AnsibleActionFail("\n".join([*problems, "Nothing was changed: what was served before still is."]))
        return {"changed": False, "expires": expires, "warnings": warnings}


def _judged(site: dict[str, Any], now: datetime) -> Any:
    missing = [what for what in ("certificate", "key") if not site[what].strip()]
    if missing:
        raise CertificateError(
            f"there is no {' and no '.join(missing)}: with site_tls: files each site needs both "
            "(site_tls_certificate, site_tls_key)"
        )
    return judge(site["certificate"], site["key"], site["domains"], now)
