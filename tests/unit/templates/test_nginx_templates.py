"""Nginx's configuration as text: each test changes one variable, and only its lines may change."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.unit.templates.rendering import Role, change, nginx_files

SITE = {"name": "polls", "domains": ["polls.example.org"]}
WEB = "/web/polls"
SHARED = ("nginx.conf", "pages/unavailable.html", "scripts/hold.js")


@pytest.fixture(scope="module")
def role() -> Role:
    return Role("nginx")


def files(role: Role, *sites: dict[str, Any], **variables: Any) -> dict[str, str]:
    return nginx_files(role, *(sites or (SITE,)), **variables)


def site(role: Role, **changes: Any) -> str:
    return files(role, {**SITE, **changes})["sites/polls.conf"]


def block(text: str, head: str) -> str:
    """Return the text between a block's braces."""
    start = text.index("{", text.index(head)) + 1
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    raise AssertionError(f"{head} does not end")


def test_every_site_gets_a_file(role: Role) -> None:
    both = files(role, SITE, {"name": "blog", "domains": ["blog.example.org"]})
    assert set(both) == {*SHARED, "sites/polls.conf", "sites/blog.conf"}
    assert "polls" not in both["sites/blog.conf"]
    assert change(both["sites/polls.conf"], site(role)) == ([], [])


def test_braces_balance_and_no_jinja_is_left(role: Role) -> None:
    for name, text in files(
        role, {**SITE, "media_url": "/media/", "extra": "location /x {\n    return 204;\n}"}
    ).items():
        assert text.count("{") == text.count("}"), name
        assert "{{" not in text, name
        assert "{%" not in text, name
        if name.endswith(".conf"):
            assert text.startswith("#"), name
            statements = [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
            continued = re.compile(r"[;{}]$|^log_format|^gzip_types|^'")
            assert [line for line in statements if not continued.search(line)] == []


def test_rendering_twice_gives_the_same(role: Role) -> None:
    assert files(role) == files(role)


def test_several_domains_are_one_server(role: Role) -> None:
    removed, added = change(
        site(role), site(role, domains=["polls.example.org", "www.polls.example.org", ".example.net"])
    )
    assert removed == ["server_name polls.example.org;"]
    assert added == ["server_name polls.example.org www.polls.example.org .example.net;"]


def test_a_site_without_media_has_no_location_for_them(role: Role) -> None:
    assert site(role, media_url="") == site(role)
    assert "/media" not in site(role)


def test_media_are_served_and_never_run(role: Role) -> None:
    removed, added = change(site(role), site(role, media_url="/media/"))
    assert removed == []
    assert "location ^~ /media/ {" in added
    media = block(site(role, media_url="/media/"), "location ^~ /media/")
    assert f"alias {WEB}/media/;" in media
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; sandbox"
    assert f'add_header Content-Security-Policy "{policy}" always;' in media


def test_symlinks_are_followed_to_the_live_releases_static_files_only(role: Role) -> None:
    both = files(role, {**SITE, "media_url": "/media/"}, nginx_tls="acme", secured=["polls"])
    assert "\n    disable_symlinks on;\n" in both["nginx.conf"]
    plain, tls = both["sites/polls.conf"].split("\nserver {")[1:]
    assert "disable_symlinks" not in plain  # it inherits the one of nginx.conf
    assert re.findall(r"disable_symlinks .*", tls) == [f"disable_symlinks on from={WEB}/run/current/static;"]
    assert "\n    disable_symlinks" in tls  # in the server, so that it applies to every location


def test_static_files_have_the_projects_path(role: Role) -> None:
    removed, added = change(site(role), site(role, static_url="/assets/"))
    assert removed == ["location ^~ /static/ {", "rewrite ^/static/(.*)$ /$1 break;"]
    assert added == ["location ^~ /assets/ {", "rewrite ^/assets/(.*)$ /$1 break;"]


def test_static_files_come_from_the_live_release_then_from_the_shared_ones(role: Role) -> None:
    text = site(role)
    static = block(text, "location ^~ /static/")
    assert f"alias {WEB}/run/current/static/;" in static
    assert "return 404;" in block(static, "if (!-f $request_filename)")
    assert "error_page 404 = @shared_static;" in static
    assert f"root {WEB}/static/shared;" in block(text, "location @shared_static")


def test_extra_lines_go_into_the_server(role: Role) -> None:
    extra = "location = /robots.txt {\n    return 204;\n}"
    text = site(role, extra=extra)
    assert change(site(role), text) == ([], ["location = /robots.txt {", "return 204;"])
    assert "\n    location = /robots.txt {\n        return 204;\n    }\n}\n" in text
    assert "location = /robots.txt" in block(text, "server {")


def test_each_site_has_its_time_limit(role: Role) -> None:
    assert change(site(role), site(role, timeout=7)) == (["proxy_read_timeout 60s;"], ["proxy_read_timeout 7s;"])


def test_the_site_is_reached_through_current(role: Role) -> None:
    everything = block(site(role), "location @site {")
    assert f"proxy_pass http://unix:{WEB}/run/current/app.sock:;" in everything
    assert "error_page 502 504 =503 /-/hostwright/unavailable.html;" in everything


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Host", "$host$port"),
        ("X-Real-IP", "$remote_addr"),
        ("X-Forwarded-For", "$remote_addr"),
        ("X-Forwarded-Proto", "$scheme"),
        ("X-Forwarded-Host", '""'),
        ("X-Forwarded-Port", '""'),
        ("Forwarded", '""'),
        ("Proxy", '""'),
    ],
)
def test_headers_that_clients_send_about_themselves_are_replaced(role: Role, header: str, value: str) -> None:
    assert f"proxy_set_header {header} {value};" in block(site(role), "location @site {")


@pytest.mark.parametrize(
    ("host", "port"), [("a.example", ""), ("a.example:8080", ":8080"), ("[::1]:80", ":80"), ("[::1]", ""), ("a:", "")]
)
def test_the_port_of_a_host(role: Role, host: str, port: str) -> None:
    pattern = re.search(r'map \$http_host \$port \{ "~(\S+)" \$digits; default ""; \}', files(role)["nginx.conf"])
    assert pattern
    found = re.search(pattern[1].replace("(?<", "(?P<"), host)
    assert (found["digits"] if found else "") == port


def test_write_requests_always_pass_the_gate_and_read_requests_during_a_hold(role: Role) -> None:
    text = site(role)
    everything = block(text, "location / {")
    conditions = re.findall(r"if \((.*)\) {\s+return 418;", everything)
    assert conditions == ["$writes", f"-f {WEB}/run/hold", f"-f {WEB}/run/maintenance"]
    assert everything.rstrip().endswith("return 420;")
    assert "error_page 418 = @gate;" in everything
    assert "error_page 420 = @site;" in everything
    assert "recursive_error_pages on;" in everything
    gate = block(text, "location @gate {")
    assert f"set $run {WEB}/run;" in gate
    assert "js_content hold.gate;" in gate
    assert "error_page 503 /-/hostwright/unavailable.html;" in gate
    assert text.count("proxy_next_upstream off;") == 1


def test_a_waiting_request_has_no_body_and_no_length(role: Role) -> None:
    hold = block(site(role), "location @hold {")
    for line in (
        "proxy_pass http://unix:/tmp/hold.sock:;",
        "proxy_pass_request_headers off;",
        "proxy_pass_request_body off;",
        'proxy_set_header Content-Length "";',
        f"proxy_set_header X-Run {WEB}/run;",
    ):
        assert line in hold


@pytest.mark.parametrize(("method", "writes"), [("GET", 0), ("HEAD", 0), ("OPTIONS", 0), ("default", 1)])
def test_methods_that_write(role: Role, method: str, writes: int) -> None:
    known = block(files(role)["nginx.conf"], "map $request_method $writes")
    assert f" {method} {writes};" in known
    assert known.count(";") == 4


def test_the_script_exports_the_functions_that_are_called(role: Role) -> None:
    every = files(role)
    assert "js_import hold from scripts/hold.js;" in every["nginx.conf"]
    assert "load_module /usr/lib/nginx/modules/ngx_http_js_module.so;" in every["nginx.conf"]
    called = set(re.findall(r"js_content hold\.(\w+);", "".join(every.values())))
    assert called == {"gate", "wait"}
    assert "export default {gate, wait};" in every["scripts/hold.js"]
    assert every["scripts/hold.js"].startswith("//")


def test_nginx_caches_no_files_and_no_connections_of_an_old_release(role: Role) -> None:
    text = "".join(files(role).values())
    assert "open_file_cache" not in text
    assert not re.search(r"^\s*upstream ", text, re.MULTILINE)
    assert "add_header Retry-After $retry_after always;" in text


def test_clients_cannot_reach_the_readiness_probe(role: Role) -> None:
    assert "return 404;" in block(site(role), "location ^~ /-/hostwright/")


@pytest.mark.parametrize(
    ("variable", "value", "removed", "added"),
    [
        ("nginx_max_body_size", "5m", "client_max_body_size 32m;", "client_max_body_size 5m;"),
        ("nginx_shutdown_timeout", 9, "worker_shutdown_timeout 60s;", "worker_shutdown_timeout 9s;"),
    ],
)
def test_one_variable_changes_one_line(role: Role, variable: str, value: Any, removed: str, added: str) -> None:
    before, after = (files(role)["nginx.conf"], files(role, **{variable: value})["nginx.conf"])
    assert change(before, after) == ([removed], [added])


def test_connections_and_the_descriptors_for_them(role: Role) -> None:
    before, after = (files(role)["nginx.conf"], files(role, nginx_worker_connections=512)["nginx.conf"])
    assert change(before, after) == (
        ["worker_rlimit_nofile 16384;", "worker_connections 8192;"],
        ["worker_rlimit_nofile 1024;", "worker_connections 512;"],
    )


def test_unknown_hosts_get_no_answer(role: Role) -> None:
    default = block(files(role)["nginx.conf"], "server {")
    assert "listen 8080 default_server;" in default
    assert "return 444;" in block(default, "location / {")
    probe = block(default, "location = /-/hostwright/nginx")
    assert "return 444;" in block(probe, "if ($remote_addr != 127.0.0.1)")


@pytest.mark.parametrize(
    "line",
    [
        "server_tokens off;",
        "client_header_timeout 15s;",
        "client_body_timeout 30s;",
        "send_timeout 30s;",
        "keepalive_timeout 65s;",
        "large_client_header_buffers 4 16k;",
        "reset_timedout_connection on;",
        "access_log /dev/stdout main;",
    ],
)
def test_limits_and_the_log_apply_to_every_server(role: Role, line: str) -> None:
    text = files(role)["nginx.conf"]
    assert f"\n    {line}\n" in text
    assert text.count(line.partition(" ")[0]) == 1 or line.startswith("access_log")


def test_the_clients_address_is_in_the_log(role: Role) -> None:
    text = files(role)["nginx.conf"]
    assert "\nerror_log stderr warn;\n" in text
    assert "log_format main '$remote_addr $host [$time_iso8601] " in text


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "SAMEORIGIN"),
        ("Referrer-Policy", "same-origin"),
        ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
    ],
)
def test_a_security_header_is_added_if_the_site_sends_none(role: Role, header: str, value: str) -> None:
    text = files(role)["nginx.conf"]
    theirs = f"$upstream_http_{header.lower().replace('-', '_')}"
    found = re.search(rf"map {re.escape(theirs)} (\$\w+)", text)
    assert found
    assert [line.strip() for line in block(text, f"map {theirs}").split(";")] == [f'"" "{value}"', 'default ""', ""]
    assert f"\n    add_header {header} {found[1]} always;\n" in site(role)


def test_the_maintenance_page_is_not_cached(role: Role) -> None:
    page = block(site(role), "location = /-/hostwright/unavailable.html")
    assert "internal;" in page
    assert "add_header Cache-Control no-store always;" in page


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("/.env", True),
        ("/a/.git/config", True),
        ("/static/.secret", True),
        ("/.well-known/acme-challenge/token", False),
        ("/.well-known/.env", True),
        ("/.well-known", True),
        ("/a/.well-known/b", True),
        ("/a.b/c..d", False),
        ("/", False),
    ],
)
def test_hidden_files_are_refused(role: Role, path: str, hidden: bool) -> None:
    rules = re.findall(r'"~(\S+)" ([01]);', block(files(role)["nginx.conf"], "map $uri $hidden"))
    assert len(rules) == 2
    assert next((value for pattern, value in rules if re.search(pattern, path)), "0") == str(int(hidden))
    assert "return 404;" in block(block(site(role), "server {"), "if ($hidden)")


def test_login_attempts_are_limited_at_the_gate(role: Role) -> None:
    slow = {"nginx_login_rate": "10r/m"}
    quiet = {**SITE, "login_path": "/login/"}
    assert files(role, quiet) == files(role)
    removed, added = change(files(role)["nginx.conf"], files(role, quiet, **slow)["nginx.conf"])
    assert removed == []
    assert 'map $writes $login_attempt { 1 $login_client; default ""; }' in added
    assert "limit_req_zone $login_attempt zone=login:10m rate=10r/m;" in added
    text = files(role, quiet, **slow)["sites/polls.conf"]
    assert change(site(role), text) == (
        [],
        [
            "if ($uri = /login/) {",
            "set $login_client $binary_remote_addr;",
            "limit_req zone=login burst=5 nodelay;",
            "limit_req_status 429;",
        ],
    )
    assert "limit_req zone=login" in block(text, "location @gate {")
    assert files(role, SITE, **slow)["sites/polls.conf"] == site(role)


def encrypted(role: Role, **variables: Any) -> tuple[str, str]:
    """Return the blocks of a site's servers for HTTP and for HTTPS."""
    text = files(role, **{"nginx_tls": "files", "secured": ["polls"], **variables})["sites/polls.conf"]
    return block(text, "server {"), block(text[text.index("server {") + 1 :], "server {")


def test_a_site_with_a_certificate_is_the_same_by_https(role: Role) -> None:
    _, tls = encrypted(role)
    removed, added = change(block(site(role), "server {"), tls)
    assert removed == ["listen 8080;"]
    assert added[:4] == [
        "listen 8443 ssl;",
        "http2 on;",
        "ssl_certificate /etc/hostwright/tls/polls/fullchain.pem;",
        "ssl_certificate_key /etc/hostwright/tls/polls/privkey.pem;",
    ]
    assert set(added[4:]) == {"add_header Strict-Transport-Security $add_transport_security always;"}


@pytest.mark.parametrize(
    ("port", "target"), [(443, "https://$host$request_uri"), (8443, "https://$host:8443$request_uri")]
)
def test_http_is_redirected_to_https(role: Role, port: int, target: str) -> None:
    plain, _ = encrypted(role, nginx_https_port=port)
    assert "listen 8080;" in plain
    assert "server_name polls.example.org;" in plain
    assert f"return 308 {target};" in block(plain, "location / {")
    assert plain.count("location") == 1


def test_a_site_without_a_certificate_is_served_by_http(role: Role) -> None:
    text = files(role, nginx_tls="files", secured=["blog"])["sites/polls.conf"]
    assert text == site(role)


@pytest.mark.parametrize("sites", [[], ["polls"]])
def test_challenges_are_answered_by_http_with_a_certificate_and_without(role: Role, sites: list[str]) -> None:
    text = files(role, nginx_tls="acme", secured=sites)["sites/polls.conf"]
    assert text.count("location ^~ /.well-known/acme-challenge/") == 1
    plain = block(text, "server {")
    assert "listen 8080;" in plain
    assert "root /etc/hostwright/acme-challenge;" in block(plain, "location ^~ /.well-known/acme-challenge/")
    assert "acme" not in files(role, nginx_tls="files", secured=sites)["sites/polls.conf"]


def test_debian_12_has_http2_as_an_option_of_listen(role: Role) -> None:
    old = files(role, nginx_tls="files", secured=["polls"], nginx_debian="12")
    for name, flag in (("nginx.conf", " default_server"), ("sites/polls.conf", "")):
        assert f"listen 8443 ssl http2{flag};" in old[name]
        assert "http2 on" not in old[name]


def test_unknown_hosts_get_no_certificate(role: Role) -> None:
    removed, added = change(files(role)["nginx.conf"], files(role, nginx_tls="files")["nginx.conf"])
    assert removed == []
    assert {"listen 8443 ssl default_server;", "ssl_reject_handshake on;", "return 421;"} <= set(added)
    assert "ssl" not in files(role)["nginx.conf"]


@pytest.mark.parametrize(
    "line",
    [
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "ssl_ecdh_curve X25519:prime256v1:secp384r1;",
        "ssl_session_tickets off;",
        "ssl_prefer_server_ciphers off;",
    ],
)
def test_the_tls_profile_applies_to_every_server(role: Role, line: str) -> None:
    text = files(role, nginx_tls="acme")["nginx.conf"]
    assert f"\n    {line}\n" in text
    ciphers = re.search(r"ssl_ciphers (\S+);", text)
    assert ciphers
    assert all(
        re.fullmatch(r"ECDHE-(ECDSA|RSA)-(AES\d+-GCM-SHA\d+|CHACHA20-POLY1305)", c) for c in ciphers[1].split(":")
    )


@pytest.mark.parametrize(("seconds", "header"), [(0, ""), (300, "max-age=300")])
def test_hsts_is_sent_if_enabled(role: Role, seconds: int, header: str) -> None:
    known = block(files(role, nginx_tls_hsts=seconds)["nginx.conf"], "map $upstream_http_strict_transport_security")
    assert f'"" "{header}";' in known


def test_a_location_with_additional_headers_has_those_of_the_server_too(role: Role) -> None:
    for server in (block(site(role, media_url="/media/"), "server {"), encrypted(role)[1]):
        wanted = set(re.findall(r"^    (add_header .*)$", server, re.MULTILINE))
        assert len(wanted) >= 5
        own = [block(server, head) for head in re.findall(r"location .*(?= \{)", server)]
        adding = [location for location in own if "add_header" in location]
        assert len(adding) >= 3
        for location in adding:
            assert wanted <= {line.strip() for line in location.splitlines()}


def test_nginx_writes_to_tmp_only(role: Role) -> None:
    text = files(role)["nginx.conf"]
    paths = re.findall(r"^\s*(?:pid|\w+_temp_path) (\S+);", text, re.MULTILINE)
    assert len(paths) == 6
    assert all(path.startswith("/tmp/") for path in paths)


def test_only_files_with_hashed_names_are_immutable(role: Role) -> None:
    pattern = re.search(r'"~(\S+)" "public, max-age=31536000, immutable"', files(role)["nginx.conf"])
    assert pattern
    for name, hashed in {
        "/css/site.0123456789ab.css": True,
        "/site.css": False,
        "/site.0123456789ab": False,
        "/site.0123456789AB.css": False,
        "/jquery.3.7.1.min.js": False,
        "/a.0123456789ab.d/b": False,
    }.items():
        assert bool(re.search(pattern[1], name)) == hashed, name


def test_the_image(role: Role) -> None:
    text = role.render("Dockerfile.j2")
    assert "FROM ${BASE}" in text
    assert "USER 10002:10001" in text
    assert text.rstrip().endswith('CMD ["nginx", "-c", "/etc/hostwright/nginx.conf", "-g", "daemon off;"]')
