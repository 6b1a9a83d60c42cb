"""The rendered configurations, checked by gixy, which finds common security faults in Nginx configurations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.unit.templates.rendering import Role, nginx_files

SITE = {
    "name": "polls",
    "domains": ["polls.example.org", ".example.net"],
    "media_url": "/media/",
    "login_path": "/login/",
}
EXTRA = {"name": "shop", "domains": ["shop.example.org"], "extra": "location = /x {\n    return 204;\n}"}
VARIANTS: dict[str, dict[str, Any]] = {
    "off": {},
    "files": {"nginx_tls": "files", "nginx_tls_hsts": 300, "secured": ["polls", "shop"]},
    "files, no certificate": {"nginx_tls": "files", "secured": []},
    "acme": {"nginx_tls": "acme", "secured": ["polls"], "nginx_https_port": 8443},
    "Debian 12": {"nginx_tls": "acme", "secured": ["polls", "shop"], "nginx_debian": "12"},
    "login": {"nginx_tls": "files", "secured": ["polls"], "nginx_login_rate": "10r/m"},
}


def findings(directory: Path, variants: dict[str, dict[str, Any]], *sites: dict[str, Any]) -> list[str]:
    """Return gixy's findings in configurations, each in its own directory."""
    role = Role("nginx")
    for name, variables in variants.items():
        for path, text in nginx_files(role, *sites, **variables).items():
            file = directory / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    paths = [f"{directory / name / 'nginx.conf'}" for name in variants]
    done = subprocess.run(
        [sys.executable, "-m", "gixy", "--format", "json", *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    found = [f"{issue['path']}: {issue['plugin']}: {issue['reason']}" for issue in json.loads(done.stdout)]
    assert bool(found) == bool(done.returncode), done.stderr
    return found


def test_gixy_finds_nothing(tmp_path: Path) -> None:
    assert findings(tmp_path, VARIANTS, SITE, EXTRA) == []


def test_gixy_checks_the_files_of_sites(tmp_path: Path) -> None:
    careless = {**EXTRA, "extra": "server_tokens on;"}
    found = findings(tmp_path, {"careless": {}}, careless)
    assert len(found) == 1
    assert "version_disclosure" in found[0]
