"""The commands, groups, tags, variables and files in README and documentation exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ROLES = sorted(str(path.relative_to(PROJECT)) for path in (PROJECT / "roles").glob("*/README.md"))
TEXTS = ["README.md", "docs/architecture.md", "docs/operations.md", *ROLES]
# Tools of the reader's machine or host; only the names of their subcommands can be checked here.
TOOLS = {"docker": {"logs", "rm"}, "journalctl": {"-t"}, "restic": {"--repo"}, "ssh": {"admin@www.example.org"}}


@dataclass(frozen=True)
class Block:
    """A code block of a file."""

    file: str
    language: str
    text: str


def blocks_of(file: str) -> Iterator[Block]:
    """Yield a file's code blocks."""
    text = (PROJECT / file).read_text(encoding="utf-8")
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(file, language, code)


BLOCKS = [block for file in TEXTS for block in blocks_of(file)]
COMMANDS = sorted({line for block in BLOCKS if block.language == "console" for line in block.text.splitlines() if line})
README_COMMANDS = [
    line for block in blocks_of("README.md") if block.language == "console" for line in block.text.split("\n")
]


def run(*command: str) -> str:
    """Run a command in the project as a reader would; return its standard output."""
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
    }
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@cache
def known_hosts_and_groups() -> frozenset[str]:
    """Return the names that -l accepts in the shipped inventory."""
    inventory = json.loads(run("ansible-inventory", "--list", "--inventory", "inventory/hosts.yml"))
    groups = {name for name in inventory if name != "_meta"} | set(inventory["all"]["children"])
    return frozenset(groups | {host for group in inventory.values() for host in group.get("hosts", [])})


@cache
def tags_of(playbook: str) -> frozenset[str]:
    """Return the tags of a playbook, which Ansible must accept."""
    listing = run("ansible-playbook", "--list-tags", "--inventory", "inventory/hosts.yml", playbook)
    return frozenset(re.findall(r"[\w-]+", " ".join(re.findall(r"TAGS: \[(.*?)\]", listing))))


@cache
def documented_variables() -> frozenset[str]:
    """Return the variables that docs/variables.md lists, without suboptions."""
    text = (PROJECT / "docs" / "variables.md").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))


def check_make(words: list[str]) -> None:
    targets = words[1:]
    assert targets
    run("make", "--dry-run", *targets)
    assert set(targets) <= set(re.findall(r"^make ([\w-]+)", run("make", "help"), re.MULTILINE))


def check_ansible_playbook(words: list[str]) -> None:
    playbook, options = words[1], words[2:]
    assert (PROJECT / playbook).is_file(), f"no playbook {playbook}"
    tags = tags_of(playbook)
    text = (PROJECT / playbook).read_text(encoding="utf-8")
    while options:
        option = options.pop(0)
        if option in {"--check", "--diff", "-K", "--ask-vault-pass"}:
            continue
        value = options.pop(0)
        if option == "-l":
            assert value in known_hosts_and_groups()
        elif option == "--tags":
            assert value in tags
        else:
            assert option == "-e"
            name = value.partition("=")[0]
            assert name in documented_variables() or re.search(rf"\b{name}\b", text), (
                f"{playbook} has no variable {name}"
            )


def check_ansible(words: list[str]) -> None:
    assert words[1] in known_hosts_and_groups()
    assert words[2:5] == ["-m", "ansible.builtin.command", "-a"]
    check(words[5])


def check_ansible_vault(words: list[str]) -> None:
    assert words[1] == "create"
    directory = Path(words[2]).parent
    assert directory.parent == Path("inventory/group_vars")
    assert directory.name in known_hosts_and_groups()


def check_hostwright(words: list[str]) -> None:
    run_host_command(words[1], "--help")


def run_host_command(*words: str) -> None:
    path = "PYTHONPATH=roles/host/files:.ansible/collections"
    run("env", path, sys.executable, "-m", "hostwright_host", *words)


def check_certificates(words: list[str]) -> None:
    run_host_command("certificates", *(word for word in words[1:] if word.startswith("-")), "--help")


def check_activation(words: list[str]) -> None:
    assert words == [".", ".venv/bin/activate"]
    assert "venv --clear .venv" in (PROJECT / "scripts" / "setup").read_text(encoding="utf-8")


def check_systemctl(words: list[str]) -> None:
    assert words[1] == "restart"
    unit = PROJECT / "plugins" / "module_utils" / "release" / "secret_files.py"
    assert f'/{words[2]}.service")\n' in unit.read_text(encoding="utf-8")


def check_tool(words: list[str]) -> None:
    assert words[1] in TOOLS[words[0]]


CHECKS = {
    "make": check_make,
    "ansible-playbook": check_ansible_playbook,
    "ansible": check_ansible,
    "ansible-vault": check_ansible_vault,
    "hostwright": check_hostwright,
    "systemctl": check_systemctl,
    "hostwright-certificates": check_certificates,
    ".": check_activation,
    **dict.fromkeys(TOOLS, check_tool),
}


def check(command: str) -> None:
    """Check one command line."""
    words = shlex.split(command)
    assert words[0] in CHECKS, f"unknown command {words[0]!r}"
    CHECKS[words[0]](words)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command: str) -> None:
    check(command)


def test_readme_has_the_main_commands() -> None:
    assert {"make demo", "make test", "ansible-playbook deploy.yml -l prod"} <= set(README_COMMANDS)


def test_ci_runs_the_test_commands_of_the_readme() -> None:
    script = (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    assert {"make test", "make test-deep"} <= set(README_COMMANDS)
    counted = [re.sub(r" --\S+", "", line) for line in re.findall(r"^count (.*)$", script, re.MULTILINE)]
    assert counted == ["make test", "make test-deep"]


def names_in(value: Any) -> Iterator[str]:
    """Yield every mapping key of a YAML document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from names_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from names_in(inner)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=lambda block: block.file)
def test_variables_in_examples_exist(block: Block) -> None:
    prefixes = ("site_", "docker_", "image_", "nginx_", "app_", "backup_", "hardening_", "dev_", "audit_")
    used = {name for name in names_in(yaml.safe_load(block.text)) if name.startswith(prefixes)}
    assert used <= documented_variables()


@pytest.mark.parametrize("file", TEXTS)
def test_variables_in_prose_exist(file: str) -> None:
    text = (PROJECT / file).read_text(encoding="utf-8")
    prefixes = "site|docker|image|nginx|app|backup|hardening|dev|sandbox|audit"
    named = set(re.findall(rf"`((?:{prefixes})_[a-z_]+)(?:: [^`]*)?`", text))
    others = {"image_id", "image_built", "app_released", "audit_report", "docker_gwbridge"}
    assert named - others <= documented_variables()


@pytest.mark.parametrize("file", [*TEXTS, "docs/variables.md"])
def test_links_lead_somewhere(file: str) -> None:
    text = (PROJECT / file).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if not link.startswith("http")]
    assert [link for link in links if not (PROJECT / file).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize(
    "command",
    [
        "make everything",
        "ansible-playbook playbooks/none.yml -l prod",
        "ansible-playbook deploy.yml -l production",
        "ansible-playbook deploy.yml -l prod --tags none",
        "ansible-playbook deploy.yml -l prod -e image_nothing=1",
        "hostwright none polls",
        "rm -rf .venv",
    ],
)
def test_the_check_can_fail(command: str) -> None:
    with pytest.raises(AssertionError):
        check(command)
