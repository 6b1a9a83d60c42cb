"""Firewall and SSH, changed with a dead man's switch on a simulated host; the undo script is really run."""

from __future__ import annotations

import os
import pwd
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.access.access import HostAccess, blocking_rule
from ansible_collections.hostwright.django.plugins.module_utils.access.ssh_server import Session, drop_in_text, session
from ansible_collections.hostwright.django.plugins.module_utils.host.problems import ProblemError
from ansible_collections.hostwright.django.plugins.module_utils.host.process import NOT_FOUND, Answer

ROLE = Path(__file__).resolve().parents[4] / "roles" / "hardening"
RULES = """\
table inet hostwright {
    chain arriving {
        type filter hook prerouting priority mangle; policy drop;
        ct state invalid drop
        # extra
        fib daddr type local tcp dport $ssh_ports accept
        tcp dport { 80 } accept
    }
}
"""
SETTINGS: dict[str, str | int | bool] = {"PasswordAuthentication": "no", "MaxAuthTries": 4}
USER = "nobody"


class Host:
    """A host with simulated nft, sshd and systemd; its files are below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []
        self.fails: set[str] = set()
        self.table = False
        self.missing: set[str] = set()
        self.when_timer_starts: list[bool] = []
        self.checked = ""
        self.listen = ["0.0.0.0:22", "[::]:22"]
        self.defaults = {"passwordauthentication": "yes", "maxauthtries": "6", "authorizedkeysfile": f"{root}/%u/keys"}
        for directory in ("etc/ssh/sshd_config.d", "proc/net", "sys/class/net", f"{USER}", "bin"):
            (root / directory).mkdir(parents=True)
        (root / USER / "keys").write_text("# mine\nssh-ed25519 AAAA me\n", encoding="utf-8")
        self.main("Include /etc/ssh/sshd_config.d/*.conf\nMaxAuthTries 5\n")
        stub = root / "bin/systemctl"
        stub.write_text(f'#!/bin/sh\necho "undo: systemctl $*" >> {root}/undo.calls\n', encoding="utf-8")
        stub.chmod(0o755)
        self.access = HostAccess(self, Session(USER, "192.0.2.7", 2222), root)
        self.firewall = self.access.firewall
        self.drop_in = self.access.ssh.drop_in

    def main(self, text: str) -> None:
        """Write sshd_config, with this root's paths."""
        (self.root / "etc/ssh/sshd_config").write_text(
            text.replace("/etc/ssh", f"{self.root}/etc/ssh"), encoding="utf-8"
        )

    def apply(self, *, rules: str = RULES, inside: Sequence[str] = (), ssh: bool = True, check: bool = False) -> bool:
        """Apply and return whether anything changed."""
        return self.access.apply(rules, inside, SETTINGS if ssh else {}, 60, check).changed

    def state(self) -> set[str]:
        """Return the names of the switch's files on disk."""
        undo = self.root / "etc/hostwright/undo"
        return {path.name for path in undo.iterdir()} if undo.exists() else set()

    def undo(self) -> None:
        """Do what hostwright-undo.service does."""
        undo = self.root / "etc/hostwright/undo"
        if (undo / "armed").exists():
            (undo / "armed").rename(undo / "undoing")
        if (undo / "undoing").exists():
            path = f"{self.root}/bin:{os.environ['PATH']}"
            subprocess.run(["/bin/sh", undo / "undoing/undo"], check=True, env={**os.environ, "PATH": path})
            (undo / "undoing").rename(undo / "undone")

    def __call__(self, command: Sequence[str]) -> Answer:
        """Run a program."""
        words = " ".join(command)
        self.calls.append(words)
        if command[0] in self.missing:
            return Answer(NOT_FOUND)
        if words.startswith("nft --check"):
            self.checked = Path(command[-1]).read_text(encoding="utf-8")
        if any(words.startswith(start) for start in self.fails):
            return Answer(1, stderr=f"{command[0]}: no")
        if command[0] == "nft" and "list" in command:
            return Answer(0 if self.table else 1)
        if command[0] == "sshd" and "-T" in command:
            file = Path(command[command.index("-f") + 1]) if "-f" in command else self.root / "etc/ssh/sshd_config"
            return Answer(0, "\n".join(f"{key} {value}" for key, value in self.effective(file, command[3])))
        if command[0] == "systemd-run":
            self.when_timer_starts = [self.firewall.exists(), self.drop_in.exists()]
        if words == "systemctl start hostwright-undo.service":
            self.undo()
        if words == "systemctl reload-or-restart hostwright-firewall.service":
            self.table = True
        return Answer(0)

    def effective(self, file: Path, connection: str) -> list[tuple[str, str]]:
        """Return the effective settings as sshd does: the first line with a keyword counts."""
        found: dict[str, str] = {}
        self.read(file, connection, found)
        return [*{**self.defaults, **found}.items(), *(("listenaddress", address) for address in self.listen)]

    def read(self, file: Path, connection: str, found: dict[str, str]) -> None:
        """Read one file, the files that it includes, and the blocks that match the connection."""
        applies = True
        for line in file.read_text(encoding="utf-8").splitlines():
            keyword, _, value = line.strip().partition(" ")
            if keyword == "Include":
                pattern = Path(value)
                for included in sorted(pattern.parent.glob(pattern.name)):
                    self.read(included, connection, found)
            elif keyword == "Match":
                kind, _, wanted = value.partition(" ")
                applies = f"{'addr' if kind == 'Address' else kind.lower()}={wanted}" in connection.split(",")
            elif applies and keyword and not keyword.startswith("#"):
                found.setdefault(keyword.lower(), value)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without Hostwright's firewall and settings."""
    return Host(tmp_path)


def test_confirmed_change_stays(host: Host) -> None:
    assert host.apply()
    assert host.when_timer_starts == [False, False]
    assert host.state() == {"armed"}
    assert "systemctl try-reload-or-restart ssh.service" in host.calls
    host.access.confirm()
    assert host.state() == set()
    assert host.calls[-1] == "systemctl stop hostwright-undo.timer"
    assert host.firewall.read_text().splitlines()[0] == "define ssh_ports = { 22, 2222 }"
    assert host.checked == host.firewall.read_text()
    assert [path.stat().st_mode & 0o777 for path in (host.firewall, host.drop_in)] == [0o600, 0o600]
    assert host.drop_in.read_text().splitlines()[1:] == ["PasswordAuthentication no", "MaxAuthTries 4"]
    assert not host.apply()
    assert host.state() == set()


def test_unconfirmed_change_is_undone(host: Host) -> None:
    host.apply(ssh=False)
    host.access.confirm()
    before = host.firewall.read_text()
    host.calls.clear()
    assert host.apply(ssh=False, rules=RULES.replace("80", "81"))
    assert host.firewall.read_text() != before
    assert "systemctl reload-or-restart hostwright-firewall.service" in host.calls
    host.undo()
    assert host.firewall.read_text() == before
    assert not host.drop_in.exists()
    assert (host.root / "undo.calls").read_text().splitlines() == [
        "undo: systemctl --no-block reload-or-restart hostwright-firewall.service",
        "undo: systemctl --no-block try-reload-or-restart ssh.service",
    ]
    with pytest.raises(ProblemError, match="no new connection came in time"):
        host.access.confirm()
    assert host.state() == set()


def test_undo_of_the_first_firewall_removes_it(host: Host) -> None:
    host.apply()
    host.undo()
    assert not host.firewall.exists()
    assert "undo: systemctl --no-block stop hostwright-firewall.service" in (host.root / "undo.calls").read_text()


def test_only_root_can_write_the_undo_script(host: Host) -> None:
    umask = os.umask(0)
    try:
        host.apply()
    finally:
        os.umask(umask)
    undo = host.root / "etc/hostwright/undo"
    for path in (undo, undo / "armed", undo / "armed/undo"):
        assert path.stat().st_mode & 0o022 == 0, path


def test_undo_continues_after_a_crash(host: Host) -> None:
    host.apply()
    undo = host.root / "etc/hostwright/undo"
    (undo / "armed").rename(undo / "undoing")
    host.undo()
    assert not host.firewall.exists()
    assert host.state() == {"undone"}


def test_unconfirmed_change_is_undone_before_the_next(host: Host) -> None:
    host.apply(rules=RULES.replace("80", "81"))
    assert host.apply(rules=RULES)
    host.undo()
    assert not host.firewall.exists()


def test_confirmation_waits_for_an_undo_in_progress(host: Host) -> None:
    host.apply()
    undo = host.root / "etc/hostwright/undo"
    (undo / "armed").rename(undo / "undoing")
    end = threading.Timer(0.3, host.undo)
    end.start()
    with pytest.raises(ProblemError, match="no new connection came in time"):
        host.access.confirm()
    end.join()


def test_nothing_to_confirm(host: Host) -> None:
    with pytest.raises(ProblemError, match="there is no change to confirm"):
        host.access.confirm()


def test_parts_that_are_turned_off_are_removed(host: Host) -> None:
    host.apply()
    host.access.confirm()
    assert host.access.apply("", (), {}, 60, False).changed
    host.access.confirm()
    assert not host.firewall.exists()
    assert not host.drop_in.exists()
    assert "systemctl stop hostwright-firewall.service" in host.calls
    assert not host.access.apply("", (), {}, 60, False).changed


def test_check_mode_changes_nothing(host: Host) -> None:
    host.missing = {"nft"}
    assert host.apply(check=True)
    assert not host.firewall.exists()
    assert not host.drop_in.exists()
    assert host.state() == set()


def test_check_mode_leaves_an_unconfirmed_change(host: Host) -> None:
    host.apply()
    assert host.apply(check=True)
    assert host.state() == {"armed"}


def test_missing_table_is_loaded_again(host: Host) -> None:
    host.apply()
    host.access.confirm()
    host.table = False
    assert host.apply()
    assert host.table


def test_without_a_timer_nothing_changes(host: Host) -> None:
    host.fails = {"systemd-run"}
    with pytest.raises(ProblemError, match="nothing was changed"):
        host.apply()
    assert not host.firewall.exists()
    assert "armed" not in host.state()


@pytest.mark.parametrize(
    "command", ["systemctl reload-or-restart hostwright-firewall", "sshd -t", "systemctl try-reload-or-restart ssh"]
)
def test_failure_is_undone_at_once(host: Host, command: str) -> None:
    host.fails = {command}
    with pytest.raises(ProblemError, match="are as they were before"):
        host.apply()
    assert not host.firewall.exists()
    assert not host.drop_in.exists()
    assert host.state() == set()


def test_firewall_that_is_missing_afterwards_is_undone(host: Host) -> None:
    def without_effect(command: Sequence[str]) -> Answer:
        answer = host(command)
        host.table = False
        return answer

    host.access.run = without_effect
    with pytest.raises(ProblemError, match="the table is missing afterwards"):
        host.apply()
    assert not host.firewall.exists()


def test_change_that_cannot_be_undone_is_reported(host: Host) -> None:
    host.fails = {"sshd -t", "systemctl start hostwright-undo.service"}
    with pytest.raises(ProblemError, match="cannot be undone"):
        host.apply()
    assert host.state() == {"armed"}


def test_settings_that_have_no_effect_afterwards_are_undone(host: Host) -> None:
    host.main(f"Include {host.root}/elsewhere/*.conf\nInclude /etc/ssh/sshd_config.d/*.conf\n")
    (host.root / "elsewhere").mkdir()

    def race(command: Sequence[str]) -> Answer:
        if command[0] == "systemd-run":
            (host.root / "elsewhere/late.conf").write_text("MaxAuthTries 9\n", encoding="utf-8")
        return host(command)

    host.access.run = host.access.ssh.run = host.access.undo.run = race
    with pytest.raises(ProblemError, match=r"settings of .*10-hostwright\.conf are not in effect: maxauthtries"):
        host.apply()
    assert not host.drop_in.exists()


@pytest.mark.parametrize("check", [False, True])
def test_rules_that_nft_refuses(host: Host, check: bool) -> None:
    host.fails = {"nft --check"}
    with pytest.raises(ProblemError, match="nftables refuses"):
        host.apply(check=check)
    assert host.state() == set()


@pytest.mark.parametrize("command", ["sshd -T", f"sshd -T -C user={USER}"])
def test_settings_that_sshd_refuses(host: Host, command: str) -> None:
    def refuse(words: Sequence[str]) -> Answer:
        file = words[words.index("-f") + 1] if "-f" in words else f"{host.root}/etc/ssh/sshd_config"
        return Answer(255, stderr=f"{file}: line 2") if " ".join(words).startswith(command) else host(words)

    host.access.run = host.access.ssh.run = refuse
    with pytest.raises(
        ProblemError, match=rf"refuses its configuration\s+where: {host.root}/etc/ssh/sshd_config: line 2\n"
    ):
        host.apply()
    assert host.state() == set()


def test_without_nft_nothing_changes(host: Host) -> None:
    host.missing = {"nft"}
    with pytest.raises(ProblemError, match="nftables refuses"):
        host.apply()
    assert host.state() == set()


@pytest.mark.parametrize(
    "rule",
    [
        "drop",
        "counter drop",
        "reject with tcp reset",
        "tcp dport 22 drop",
        "tcp dport ssh reject",
        "tcp dport { 1-1024 } counter drop",
        "tcp dport { 443, 2222 } drop",
        "udp dport 53 accept; tcp dport 22 drop # closed",
        "udp dport 53 accept\n        tcp dport 22 drop",
        "tcp dport $ssh_ports counter\n        drop",
    ],
)
def test_rule_that_blocks_ssh(host: Host, rule: str) -> None:
    with pytest.raises(ProblemError, match="would cut SSH off"):
        host.apply(rules=RULES.replace("# extra", rule))
    assert host.state() == set()


@pytest.mark.parametrize(
    "rule",
    [
        "tcp dport 22 ip saddr != 192.0.2.0/24 drop",
        "tcp dport { 23-1024 } drop",
        "udp dport 22 drop",
        'iifname "wg0" accept',
        "tcp dport 25 drop # not 22",
        "tcp dport { https, 25-smtp } drop",
        "tcp dport $ssh_ports accept\n        drop",
    ],
)
def test_rule_that_does_not_block_ssh(rule: str) -> None:
    assert blocking_rule(f"define\n{RULES.replace('# extra', rule)}", [22, 2222]) is None


def test_line_that_overrides_the_drop_in_is_named(host: Host) -> None:
    host.apply()
    host.access.confirm()
    (host.drop_in.parent / "05-theirs.conf").write_text("# theirs\nPasswordAuthentication yes\n", encoding="utf-8")
    with pytest.raises(ProblemError, match=r"05-theirs\.conf, line 2: PasswordAuthentication yes\n"):
        host.apply()


def test_line_after_the_drop_in_is_accepted(host: Host) -> None:
    (host.drop_in.parent / "50-cloud-init.conf").write_text("PasswordAuthentication yes\n", encoding="utf-8")
    assert host.apply()


@pytest.mark.parametrize(
    ("block", "user"), [("User root", "root"), (f"User {USER}", USER), ("Address 192.0.2.7", "root")]
)
def test_block_that_overrides_the_drop_in_is_refused(host: Host, block: str, user: str) -> None:
    (host.drop_in.parent / "05.conf").write_text(f"Match {block}\n  PasswordAuthentication yes\n", encoding="utf-8")
    with pytest.raises(ProblemError, match=f"other lines override settings of SSH for the user {user}"):
        host.apply()


@pytest.mark.parametrize("text", ["", "MaxAuthTries 5\nInclude /etc/ssh/sshd_config.d/*.conf\n"])
def test_drop_in_that_is_included_too_late_or_never(host: Host, text: str) -> None:
    host.main(text)
    with pytest.raises(ProblemError, match="other lines override"):
        host.apply()


@pytest.mark.parametrize("keys", [None, "", "# nothing\n\n"])
def test_passwords_of_a_user_without_a_key_are_not_turned_off(host: Host, keys: str | None) -> None:
    path = host.root / USER / "keys"
    path.unlink() if keys is None else path.write_text(keys, encoding="utf-8")
    with pytest.raises(ProblemError, match=f"the user {USER}, .* has no authorized key"):
        host.apply()
    host.defaults["authorizedkeyscommand"] = "/usr/bin/keys-of"
    assert host.apply()


def test_root_who_logged_in_is_not_locked_out(host: Host) -> None:
    host.access.session = Session("root", "192.0.2.7", 22)
    with pytest.raises(ProblemError, match="logged in as root"):
        host.access.apply("", (), {"PermitRootLogin": "no"}, 60, True)
    assert host.access.apply("", (), {"PermitRootLogin": "prohibit-password"}, 60, True).changed
    host.access.session = Session(USER, "192.0.2.7", 22)
    assert host.access.apply("", (), {"PermitRootLogin": "no"}, 60, True).changed


def test_without_a_session_the_servers_ports_stay_open(host: Host) -> None:
    host.access.session = None
    (host.root / USER / "keys").unlink()  # without a session nobody can be locked out
    assert host.apply()
    assert host.firewall.read_text().splitlines()[0] == "define ssh_ports = { 22 }"


def test_host_without_a_server_or_a_session(host: Host) -> None:
    host.missing = {"sshd"}
    assert host.apply(ssh=False)
    host.access.session = None
    with pytest.raises(ProblemError, match="no SSH server was found"):
        host.apply(ssh=False)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("route", "br-lan\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0"),
        ("ipv6_route", f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 28} 00000400 00000001 00000000 00000003   br-lan"),
    ],
)
def test_interface_with_the_default_route_is_not_inside(host: Host, table: str, row: str) -> None:
    inner = row.replace("br-lan", "docker0").replace("0" * 8, "000011AC", 1)
    (host.root / "proc/net" / table).write_text(f"{row}\n{inner}\n", encoding="ascii")
    with pytest.raises(ProblemError, match=r'(?s)interface br-lan leads out.*"br-\*"'):
        host.apply(inside=["docker0", "br-*"])
    assert host.apply(inside=["docker0", "br-la0", "br-0123456789ab"])


@pytest.mark.parametrize("below", ["device", "lower_eth0"])
def test_bridge_to_a_device_is_not_inside(host: Host, below: str) -> None:
    network = host.root / "sys/class/net"
    for path in ("docker0/brif/veth1", "veth1", "br-lan/brif/eth1", f"eth1/{below}"):
        (network / path).mkdir(parents=True)
    with pytest.raises(ProblemError, match="interface br-lan leads out"):
        host.apply(inside=["docker0", "br-*"])
    assert host.apply(inside=["docker0"])


def test_session_is_that_of_the_login_shell(tmp_path: Path) -> None:
    for pid, parent, environment in (
        (30, 20, "USER=root\0"),
        (20, 10, "SSH_CONNECTION=198.51.100.1 1 ::1 9\0"),
        (10, 1, "USER=deploy\0SSH_CONNECTION=192.0.2.7 51234 192.0.2.1 2222\0"),
    ):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "environ").write_bytes(environment.encode())
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (strange) name) S {parent} 1 1", encoding="ascii")
    assert session(30, tmp_path) == Session(pwd.getpwuid(os.geteuid()).pw_name, "192.0.2.7", 2222)
    assert session(31, tmp_path) is None


def test_booleans_become_yes_and_no() -> None:
    assert drop_in_text({"X11Forwarding": False, "UsePAM": True}).splitlines()[1:] == ["X11Forwarding no", "UsePAM yes"]


def test_units_use_the_same_paths() -> None:
    access = HostAccess(lambda _: Answer(0), None)
    undo = (ROLE / "files/hostwright-undo.service").read_text(encoding="utf-8")
    for name in ("armed", "undoing", "undone", "undoing/undo"):
        assert f"{access.undo.directory}/{name}\n" in undo
    firewall = (ROLE / "files/hostwright-firewall.service").read_text(encoding="utf-8")
    assert firewall.count(f"nft --file {access.firewall}\n") == 2
