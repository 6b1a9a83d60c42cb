"""Collect a build context on the control node and build the image on the builder (action side of ``build_image``)."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.hostwright.django.plugins.module_utils.image.bootstrap import Base
from ansible_collections.hostwright.django.plugins.module_utils.image.project import (
    ProjectError,
    context_files,
    digest_of,
)
from ansible_collections.hostwright.django.plugins.module_utils.image.store import ImageStore, StoreError

display = Display()

SPEC = {
    "name": {"type": "str", "required": True},
    "tag": {"type": "str", "required": True},
    "dockerfile": {"type": "str", "required": True},
    "directories": {"type": "dict", "default": {}},
    "texts": {"type": "dict", "default": {}},
    "pip": {"type": "bool", "default": False},
    "debian": {"type": "str", "default": "13", "choices": ["12", "13"]},
    "packages": {"type": "list", "elements": "str", "default": []},
    "build_packages": {"type": "list", "elements": "str", "default": []},
    "mirror": {"type": "str", "default": ""},
    "serial": {"type": "int", "default": 1},
    "base": {"type": "str", "default": ""},
    "platform": {"type": "str", "default": ""},
    "labels": {"type": "dict", "default": {}},
    "source_digest": {"type": "str", "default": ""},
    "export": {"type": "bool", "default": True},
    "predict": {"type": "bool", "default": False},
    "archive_directory": {"type": "path", "required": True},
}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES")
CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Runs the phases of the module ``build_image`` on the builder: query, bootstrap, build, export; if needed."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Build and export the image, if needed; return its properties.

        Raises:
            AnsibleActionFail: a directory of the context is missing, or a phase failed.
        """
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(SPEC)
        self._vars = task_vars or {}
        try:
            digest = _digest(options)
        except (ProjectError, OSError) as error:
            raise AnsibleActionFail(f"cannot read the source of {options['name']}: {error}") from error
        self._common = {
            "reference": f"{options['name']}:{options['tag']}",
            "digest": digest,
            **{
                key: options[key]
                for key in ("debian", "packages", "build_packages", "mirror", "serial", "base", "platform")
            },
        }
        # The call that queries an existing image also exports it, which saves a start of Python.
        self._store = ImageStore(Path(options["archive_directory"]).expanduser())
        store = {"store": str(self._store.root.absolute())} if options["export"] and self._local else {}
        state = self._module(phase="query", **store)
        changed = not state["present"]
        diff = {
            "before": f"{self._common['reference']} from source {state['digest'] or '(none)'}\n",
            "after": f"{self._common['reference']} from source {digest}\n",
        }
        outcome = {"changed": changed, "source_digest": options["source_digest"], "diff": diff if changed else {}}
        if changed and self._task.check_mode and not options["predict"]:
            return {**_facts(state, digest), **outcome, "image_id": "", "layers": [], "archive": ""}
        if changed:
            if not state["base_present"]:
                display.display("    bootstrapping the base from Debian's packages (under a minute) …")
                self._module(phase="bootstrap")
            display.display(f"    building {self._common['reference']} …")
            with _context(options) as context, self._on_builder(context) as there:
                state = self._module(
                    phase="build",
                    context=there,
                    source_digest=options["source_digest"],
                    labels=options["labels"],
                    **store,
                )
        archive: Path | str = ""
        if options["export"]:
            try:
                archive = self._export(state)
            except (StoreError, OSError) as error:
                raise AnsibleActionFail(f"cannot export {self._common['reference']}: {error}") from error
        return {**_facts(state, digest), **outcome, "archive": str(archive)}

    def _module(self, **arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="hostwright.django.build_image",
            module_args={**self._common, **arguments},
            task_vars=self._vars,
        )
        if result.get("failed"):
            raise AnsibleActionFail(result.get("msg", "the builder failed"), result=result)
        return result

    @property
    def _local(self) -> bool:
        return bool(self._connection.transport == "local")

    @contextmanager
    def _on_builder(self, context: Path) -> Iterator[str]:
        """Copy the context to the builder for one block, if that is another machine; yield its path there."""
        if self._local:
            yield str(context)
            return
        directory = self._make_tmp_path()
        self._connection._shell.tmpdir = directory
        there = self._connection._shell.join_path(directory, "context.tar")
        self._transfer_file(str(context), there)
        self._fixup_perms2((directory, there))
        yield there

    def _export(self, state: Mapping[str, Any]) -> Path:
        """Fetch the image into the control node's store, if it is missing there; return its description's path."""
        store = self._store
        description = store.description(self._common["reference"], state["image_id"])
        if store.has_image(description):
            return description
        display.display(f"    exporting {self._common['reference']} …")
        stored = [digest for layer in state["layers"] if store.has(digest := layer.removeprefix("sha256:"))]
        directory = self._make_tmp_path()
        try:
            packed = self._connection._shell.join_path(directory, "export.tar")
            self._module(
                phase="export", archive=packed, known={**store.names(), **{digest: digest for digest in stored}}
            )
            with tempfile.TemporaryDirectory(prefix="hostwright-export-") as here:
                self._connection.fetch_file(packed, f"{here}/export.tar")
                store.unpack(Path(here) / "export.tar", description)
        finally:
            self._remove_tmp_path(directory, force=True)
        return description


def _facts(state: Mapping[str, Any], digest: str) -> dict[str, Any]:
    keys = ("image_id", "layers", "size", "platform")
    return {"digest": digest, "image": state["reference"], **{key: state.get(key) for key in keys}}


def _digest(options: Mapping[str, Any]) -> str:
    """SHA-256 of everything that determines the image's content; proxies and certificates do not count."""
    base = Base(options["debian"], tuple(options["packages"]), serial=options["serial"])
    build = Base(options["debian"], (*options["packages"], *options["build_packages"]), serial=options["serial"])
    total = hashlib.sha256()
    total.update("\0".join([options["dockerfile"], options["base"] or base.key, build.key]).encode())
    for name, text in sorted(options["texts"].items()):
        total.update(f"\0{name}\0{text}".encode())
    for name, directory in sorted(options["directories"].items()):
        root = Path(directory)
        if not root.is_dir():
            raise ProjectError(f"no directory {root} on the control node to build {options['name']} from")
        total.update(f"\0{name}\0{digest_of(root, context_files(root))}".encode())
    return total.hexdigest()


@contextmanager
def _context(options: Mapping[str, Any]) -> Iterator[Path]:
    """Pack the build context into a tar archive in a temporary directory that only this user can read."""
    with tempfile.TemporaryDirectory(prefix="hostwright-context-") as directory:
        root = Path(directory) / "context"
        root.mkdir()
        (root / "Dockerfile").write_text(options["dockerfile"])
        for name, text in options["texts"].items():
            (root / name).write_text(text)
        for name, source in options["directories"].items():
            for path in context_files(Path(source)):
                target = root / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(Path(source) / path, target, follow_symlinks=False)
            (root / name).mkdir(exist_ok=True)
        if options["pip"]:
            _put_pip(root / "build")
        archive = Path(directory) / "context.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(root, arcname=".", filter=_as_root)
        yield archive


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Let root own a file and all users read it, independent of its owner and mode in the checkout."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def _put_pip(directory: Path) -> None:
    """Write pip and the control node's settings for its package index; only the build stages use them."""
    try:
        import pip
    except ImportError as error:
        raise AnsibleActionFail(
            "Ansible's Python on the control node has no pip: run 'make demo' or install pip"
        ) from error
    lines = ["export PYTHONPATH=/build/pip", "export PIP_NO_CACHE_DIR=1"]
    shutil.copytree(
        Path(pip.__file__).parent, directory / "pip" / "pip", ignore=shutil.ignore_patterns("__pycache__", "*.exe")
    )
    for name in (*PIP_VARIABLES, *PROXIES):
        if os.environ.get(name):
            lines.append(f"export {name}='{os.environ[name].replace(chr(39), '')}'")
    bundle = next((os.environ[name] for name in CERTIFICATES if os.environ.get(name)), None)
    if bundle:
        if not Path(bundle).is_file():
            raise AnsibleActionFail(f"the file {bundle}, which PIP_CERT or SSL_CERT_FILE names, does not exist")
        shutil.copyfile(bundle, directory / "certificates.pem")
        lines += ["export PIP_CERT=/build/certificates.pem", "export SSL_CERT_FILE=/build/certificates.pem"]
    (directory / "environment").write_text("".join(f"{line}\n" for line in lines))
