"""Send the layers of an image that a host lacks (action side of ``push_image``).

docs/architecture.md, "How an image is pushed", describes the protocol.
"""

from __future__ import annotations

import ast
import io
import itertools
import json
import shlex
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.hostwright.django.plugins.module_utils.host.carrier import run_with
from ansible_collections.hostwright.django.plugins.module_utils.image import receiver
from ansible_collections.hostwright.django.plugins.module_utils.image.store import (
    ExportedImage,
    ImageStore,
    Layer,
    Piece,
    StoreError,
)

display = Display()

SPEC = {
    "image": {"type": "str", "required": True},
    "archive": {"type": "path", "required": True},
    "layers": {"type": "list", "elements": "str", "required": True},
    "digest": {"type": "str", "required": True},
    "source_digest": {"type": "str", "default": ""},
    "platform": {"type": "str", "default": ""},
    "records": {"type": "path", "default": ""},
}
# Reads the host's script from standard input and runs it; the script reads the rest of the input.
START = "import sys,zlib;i=sys.stdin.buffer;exec(zlib.decompress(i.read(int(i.readline()))))"
BATCH = 16 << 20  # bytes that are sent to all hosts at a time, and therefore in memory
ATTEMPTS = 3  # to send a piece that arrives damaged, or that a concurrent push has removed
ROOM = 2  # an Engine needs twice a layer's size while it loads
RESERVE = 16 << 20  # bytes that stay free


Batch = list[tuple[Layer, Piece]]


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Queries the host in one round trip; sends and loads only the layers that it lacks."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Push the image; return the number and the size of the sent layers.

        Raises:
            AnsibleActionFail: the host refuses the image, or cannot load it.
        """
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(SPEC)
        self._vars = task_vars or {}
        self._image = options["image"]
        self._store = ImageStore(Path(options["archive"]).parent.parent)
        self._request: dict[str, Any] = {
            key: options[key] for key in ("image", "digest", "source_digest", "platform", "records")
        }
        self._request["layers"] = [layer.removeprefix("sha256:") for layer in options["layers"]]
        state = self._ask({"do": "query", "check": self._task.check_mode})
        if state["present"]:
            return {"changed": False, "image": self._image, "way": "none", "layers": 0, "bytes": 0}
        if self._task.check_mode and not options["archive"]:  # it would be built first
            return self._outcome("whole", len(options["layers"]), 0)
        try:
            exported = self._store.image(Path(options["archive"]))
            return self._push(exported, state)
        except (StoreError, OSError) as error:
            raise AnsibleActionFail(f"cannot push {self._image}: {error}") from None  # Ansible adds causes

    def _push(self, exported: ExportedImage, state: dict[str, Any]) -> dict[str, Any]:
        """Send the missing layers, or, if the Engine cannot load these alone, all layers."""
        ways = ["layers", "whole"] if state["have"] else ["whole"]
        reason, total = "", 0
        for way in ways:
            have = state["have"] if way == "layers" else []
            sent = list({layer.digest: layer for layer in exported.layers if layer.digest not in have}.values())
            self._check_room(sent, state, reason)
            size = sum(piece.length for piece in _lacking(sent, state))
            if self._task.check_mode:
                return self._outcome(way, len(sent), size)
            display.display(
                f"    sending {self._image} to {self._task.delegate_to or self._vars.get('inventory_hostname')} "
                f"({len(sent)} of {len(exported.layers)} layers, {size / 1e6:.1f} MB) …"
            )
            answer, count = self._send(exported, sent, state)
            total += count
            if answer["loaded"]:
                return self._outcome(way, len(sent), total)
            state, reason = answer, answer.get("failed", f"pieces are still damaged after {ATTEMPTS} attempts")
            display.vv(f"{self._image}: {way} failed: {reason}")
        raise AnsibleActionFail(f"the host cannot load {self._image}, even with all its layers: {reason}")

    def _send(self, exported: ExportedImage, sent: list[Layer], state: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Send the pieces that the host's spool lacks and load them; return the answer, and the bytes sent."""
        request = {
            "config": exported.config,
            "manifest": exported.manifest,
            "sent": {
                layer.digest: {"size": layer.size, "pieces": [(piece.name, piece.length) for piece in layer.pieces]}
                for layer in sent
            },
        }
        total = 0
        for _ in range(ATTEMPTS):
            last: Batch = []
            for batch in self._batches(sent, state):
                if last:
                    self._ask({"do": "take"}, last)
                last = batch
                total += sum(piece.length for _, piece in batch)
            state = self._ask({"do": "load", **request}, last)
            if state["loaded"] or not state["missing"]:
                break
        return state, total

    def _batches(self, sent: list[Layer], state: dict[str, Any]) -> Iterator[Batch]:
        """Yield the pieces to send in batches, whose size lets the batches of all hosts fit into BATCH together."""
        hosts = min(len(self._vars.get("ansible_play_batch") or [""]), self._vars.get("ansible_forks") or 1)
        batch: Batch = []
        lacking = set(_lacking(sent, state))
        for layer in sent:
            for piece in dict.fromkeys(layer.pieces):
                if piece not in lacking:
                    continue
                lacking.remove(piece)
                if batch and sum(other.length for _, other in batch) + piece.length > BATCH // hosts:
                    yield batch
                    batch = []
                batch.append((layer, piece))
        if batch:
            yield batch

    def _check_room(self, sent: list[Layer], state: dict[str, Any], reason: str) -> None:
        """Refuse, before anything is sent, a push that would fill a disk of the host."""
        needed: dict[int, int] = {}
        spool = sum(piece.length for piece in _lacking(sent, state))
        for place, size in zip(state["room"], (ROOM * sum(layer.size for layer in sent), spool), strict=False):
            needed[place["device"]] = needed.get(place["device"], RESERVE) + size
        for place in state["room"]:
            if place["free"] < needed[place["device"]]:
                raise AnsibleActionFail(
                    f"not enough disk space for {self._image}: {needed[place['device']] / 1e6:.0f} MB needed on "
                    f"{place['path']}, {place['free'] / 1e6:.0f} MB free; nothing was sent. Free space and run again"
                    + (f". (All layers are needed, because the missing ones did not load: {reason})" if reason else "")
                )

    def _outcome(self, way: str, layers: int, size: int) -> dict[str, Any]:
        plan = f"{self._image}: {layers} layers, {size} bytes\n"
        return {
            "changed": True,
            "image": self._image,
            "way": way,
            "layers": layers,
            "bytes": size,
            "diff": {"before": "", "after": plan},
        }

    def _ask(self, request: dict[str, Any], batch: Batch | None = None) -> dict[str, Any]:
        """Send the host's script, a request and pieces of layers in one round trip; return the answer.

        Raises:
            AnsibleActionFail: the answer is an error, or there is none.
        """
        batch = batch or []
        request = {**self._request, **request, "pieces": [(piece.name, piece.length) for _, piece in batch]}
        head = b"".join(
            b"%d\n" % len(part) + part for part in (_script(), zlib.compress(json.dumps(request).encode(), 9))
        )
        # Write the pieces into a buffer of the final size: it is their only copy, and is not moved by growing.
        data = io.BytesIO()
        data.seek(len(head) + sum(piece.length for _, piece in batch) - 1)
        data.write(b"\0")
        data.seek(0)
        data.write(head)
        for layer, pieces in itertools.groupby(batch, key=lambda entry: entry[0]):
            data.writelines(self._store.pieces(layer, {piece for _, piece in pieces}))
        result = run_with(self, f"{self._python()} -c {shlex.quote(START)}", data.getvalue())
        try:
            answer: dict[str, Any] = json.loads(result["stdout"].strip().splitlines()[-1])
        except (IndexError, ValueError) as error:
            tail = "\n".join(f"{result['stderr']}\n{result['stdout']}".strip().splitlines()[-5:])
            raise AnsibleActionFail(f"the push of {self._image} failed on the host ({result['rc']}): {tail}") from error
        if "error" in answer:
            raise AnsibleActionFail(answer["error"])
        return answer

    def _python(self) -> str:
        """The host's Python: the configured or discovered one, else the one in its PATH."""
        known = self._vars.get("ansible_delegated_vars", {}).get(self._task.delegate_to, self._vars)
        named = str(self._templar.template(known.get("ansible_python_interpreter", "auto")))
        if not named.startswith("auto"):
            return named
        return str(known.get("ansible_facts", {}).get("discovered_interpreter_python") or "python3")


def _lacking(sent: list[Layer], state: dict[str, Any]) -> list[Piece]:
    """Pieces of the layers that the host's spool lacks, each once."""
    spooled = set(state["spooled"])
    return list(dict.fromkeys(piece for layer in sent for piece in layer.pieces if piece.name not in spooled))


@cache
def _script() -> bytes:
    """The host's script, compressed, without comments and docstrings."""
    tree = ast.parse(Path(receiver.__file__).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return zlib.compress(ast.unparse(tree).encode(), 9)
