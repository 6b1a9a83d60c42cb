"""Nginx's configuration as text: one variable toggled per test, and only its lines change."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.unit.templates.rendering import Role, change

SITE = {"name": "polls", "domains": ["polls.example.org"]}
WEB = "/web/polls"
SHARED = ("nginx.conf", "pages/unavailable.html", "scripts/hold.js")


@pytest.fixture(scope="module")
def role() -> Role:
    return Role("nginx")


def files(role: Role, *sites: dict[str, Any], **variables: Any) -> dict[str, str]:
    found: dict[str, str] = role.evaluate("__nginx_files", nginx_sites=list(sites or (SITE,)), **variables)
    return found


def site(role: Role, **changes: Any) -> str:
    return files(role, {**SITE, **changes})["sites/polls.conf"]


def block(text: str, head: str) -> str:
    """The text between a block's braces."""
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


def test_braces_balance_and_nothing_is_left_of_jinja(role: Role) -> None:
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
    gone, come = change(site(role), site(role, domains=["polls.example.org", "www.polls.example.org", ".example.net"]))
    assert gone == ["server_name polls.example.org;"]
    assert come == ["server_name polls.example.org www.polls.example.org .example.net;"]


def test_a_site_without_media_has_no_place_for_them(role: Role) -> None:
    assert site(role, media_url="") == site(role)
    assert "/media" not in site(role)


def test_media_are_served_and_never_run(role: Role) -> None:
    gone, come = change(site(role), site(role, media_url="/media/"))
    assert gone == []
    assert "location ^~ /media/ {" in come
    media = block(site(role, media_url="/media/"), "location ^~ /media/")
    assert f"alias {WEB}/media/;" in media
    assert "X-Content-Type-Options nosniff" in media
    assert "sandbox" in media


def test_static_files_are_where_the_project_says(role: Role) -> None:
    gone, come = change(site(role), site(role, static_url="/assets/"))
    assert gone == ["location ^~ /static/ {", "rewrite ^/static/(.*)$ /$1 break;"]
    assert come == ["location ^~ /assets/ {", "rewrite ^/assets/(.*)$ /$1 break;"]


def test_static_files_are_the_live_release_s_then_the_shared_ones(role: Role) -> None:
    text = site(role)
    static = block(text, "location ^~ /static/")
    assert f"root {WEB}/run/current/static;" in static
    assert "try_files $uri @shared_static;" in static
    assert f"root {WEB}/static/shared;" in block(text, "location @shared_static")


def test_extra_lines_go_into_the_server(role: Role) -> None:
    extra = "location = /robots.txt {\n    return 204;\n}"
    text = site(role, extra=extra)
    assert change(site(role), text) == ([], ["location = /robots.txt {", "return 204;"])
    assert "\n    location = /robots.txt {\n        return 204;\n    }\n}\n" in text
    assert "location = /robots.txt" in block(text, "server {")


def test_the_time_limit_is_the_site_s(role: Role) -> None:
    assert change(site(role), site(role, timeout=7)) == (["proxy_read_timeout 60s;"], ["proxy_read_timeout 7s;"])


def test_the_site_is_reached_through_current(role: Role) -> None:
    everything = block(site(role), "location @site {")
    assert f"proxy_pass http://unix:{WEB}/run/current/app.sock:;" in everything
    assert "proxy_set_header Host $http_host;" in everything
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in everything
    assert "error_page 502 504 =503 /-/hostwright/unavailable.html;" in everything


def test_writing_requests_pass_the_gate_and_reading_ones_during_a_hold(role: Role) -> None:
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


def test_who_waits_sends_no_body_and_no_length(role: Role) -> None:
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
def test_what_writes(role: Role, method: str, writes: int) -> None:
    known = block(files(role)["nginx.conf"], "map $request_method $writes")
    assert f" {method} {writes};" in known
    assert known.count(";") == 4


def test_the_script_is_the_one_that_is_called(role: Role) -> None:
    every = files(role)
    assert "js_import hold from scripts/hold.js;" in every["nginx.conf"]
    assert "load_module /usr/lib/nginx/modules/ngx_http_js_module.so;" in every["nginx.conf"]
    called = set(re.findall(r"js_content hold\.(\w+);", "".join(every.values())))
    assert called == {"gate", "wait"}
    assert "export default {gate, wait};" in every["scripts/hold.js"]
    assert every["scripts/hold.js"].startswith("//")


def test_nothing_keeps_old_files_or_connections(role: Role) -> None:
    text = "".join(files(role).values())
    assert "open_file_cache" not in text
    assert not re.search(r"^\s*upstream ", text, re.MULTILINE)
    assert "add_header Retry-After $retry_after always;" in text


def test_strangers_do_not_reach_the_readiness_probe(role: Role) -> None:
    assert "return 404;" in block(site(role), "location ^~ /-/hostwright/")


@pytest.mark.parametrize(
    ("variable", "value", "gone", "come"),
    [
        ("nginx_max_body_size", "5m", "client_max_body_size 32m;", "client_max_body_size 5m;"),
        ("nginx_shutdown_timeout", 9, "worker_shutdown_timeout 60s;", "worker_shutdown_timeout 9s;"),
    ],
)
def test_one_variable_changes_one_line(role: Role, variable: str, value: Any, gone: str, come: str) -> None:
    before, after = (files(role)["nginx.conf"], files(role, **{variable: value})["nginx.conf"])
    assert change(before, after) == ([gone], [come])


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
    assert "if ($remote_addr != 127.0.0.1)" in block(default, "location = /-/hostwright/nginx")


def test_all_that_nginx_writes_is_in_tmp(role: Role) -> None:
    text = files(role)["nginx.conf"]
    paths = re.findall(r"^\s*(?:pid|\w+_temp_path) (\S+);", text, re.MULTILINE)
    assert len(paths) == 6
    assert all(path.startswith("/tmp/") for path in paths)


def test_hashed_names_and_no_others_are_immutable(role: Role) -> None:
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
