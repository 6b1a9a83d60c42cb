#!/usr/bin/env python3
"""A pretended docker program with its images in the directory $PRETENDED; it follows the rules of the classic store.

The file `fault` there selects a failure: `load` (refused), `quiet` (an error is printed, exit status 0, and the tag is
set), `partly` (refused unless all layers are sent), `other` (an image without its last layer is loaded), `create`,
`tag`, `save-fails`, `down` (no Engine), or `hang` (it never answers).

The tests start it hundreds of times, so it imports only what it needs: pathlib and typing would double its time.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

ROOT = os.environ["PRETENDED"]


def read(name: str, otherwise: str) -> str:
    try:
        with open(f"{ROOT}/{name}") as file:  # noqa: PTH123
            return file.read()
    except FileNotFoundError:
        return otherwise


words = sys.argv[1:]
fault = read("fault", "")
if fault == "hang":
    time.sleep(60)
lock = open(f"{ROOT}/docker.lock", "w")  # noqa: PTH123, SIM115
fcntl.flock(lock, fcntl.LOCK_EX)
state: dict[str, Any] = json.loads(read("store.json", '{"images": {}, "containers": []}'))
images: dict[str, Any] = state["images"]
with open(f"{ROOT}/calls", "a") as log:  # noqa: PTH123
    log.write(" ".join(words) + "\n")


def end(status: int = 0, output: str = "", error: str = "") -> NoReturn:
    with open(f"{ROOT}/store.json", "w") as file:  # noqa: PTH123
        file.write(json.dumps(state))
    print(output)
    print(error, file=sys.stderr)
    sys.exit(status)


def load() -> None:
    import hashlib
    import tarfile

    blobs: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member)
                blobs[member.name] = content.read() if content else b""
    except tarfile.ReadError:
        end(1, error="unexpected EOF")
    manifest = json.loads(blobs["manifest.json"])[0] if "manifest.json" in blobs else end(1, error="no manifest")
    config = json.loads(blobs[manifest["Config"]])
    diff_ids = config["rootfs"]["diff_ids"]
    index = json.loads(blobs["index.json"])["manifests"][0]
    oci = json.loads(blobs["blobs/" + index["digest"].replace(":", "/")])
    assert index["annotations"]["io.containerd.image.name"] == f"docker.io/library/{manifest['RepoTags'][0]}"
    assert [layer["digest"] for layer in oci["layers"]] == diff_ids
    chains = [image["RootFS"]["Layers"] for image in images.values()]
    for number, (name, diff_id) in enumerate(zip(manifest["Layers"], diff_ids, strict=True)):
        if name in blobs:
            assert f"sha256:{hashlib.sha256(blobs[name]).hexdigest()}" == diff_id
            assert len(blobs[name]) == oci["layers"][number]["size"]
        elif diff_ids[: number + 1] not in [chain[: number + 1] for chain in chains]:
            end(1, error=f"open /tmp/{name}: no such file or directory")
    image = {
        "Id": f"sha256:{hashlib.sha256(blobs[manifest['Config']]).hexdigest()}",
        "RootFS": {"Layers": diff_ids[:-1] if fault == "other" else diff_ids},
        "Config": config["config"],
        "Architecture": config["architecture"],
    }
    if fault == "load" or (fault == "partly" and len(blobs) < 5 + len(set(diff_ids))):
        end(1, error="Error processing tar file: no space left on device")
    images[manifest["RepoTags"][0]] = image
    end(0, output="Error unpacking image" if fault == "quiet" else f"Loaded image: {manifest['RepoTags'][0]}")


if fault == "down":
    end(1, error="Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?")
if words[0] == fault:
    end(1, error=f"pretended failure of {fault}")
match words[:2]:
    case ["info", _]:
        end(output=json.dumps({"DockerRootDir": ROOT, "DriverStatus": []}))
    case ["load", _]:
        load()
    case ["image", "inspect"] if words[2] == "--format":
        end(output="\n".join(json.dumps(image["RootFS"]["Layers"]) for image in images.values()))
    case ["image", "inspect"]:
        if words[2] in images:
            end(output=json.dumps([images[words[2]]]))
        end(1, "[]", f"Error: No such image: {words[2]}")
    case ["image", "ls"]:
        end(output="\n".join(image["Id"] for image in images.values()))
    case ["image", "rm"]:
        images.pop(words[-1], None)
        end()
    case ["tag", _]:
        images[words[2]] = images[words[1]]
        end()
    case ["create", _]:
        state["containers"].append(words[words.index("--name") + 1])
        end()
    case ["rm", _]:
        state["containers"].remove(words[-1])
        end()
    case ["ps", _]:
        wanted = words[words.index("--filter") + 1].removeprefix("name=^").removesuffix("$")
        end(output="1" if wanted in state["containers"] else "")
    case ["save", _]:
        with open(f"{ROOT}/saved.tar", "rb") as saved:  # noqa: PTH123
            sys.stdout.buffer.write(saved.read())
        sys.stdout.flush()
        if fault == "save-fails":
            sys.exit("Error response from daemon: EOF")
    case _:
        end(125, error=f"pretended docker does not know {words}")
