"""The part of a push that runs on the host: report the present layers, receive pieces of the others, load them.

It is sent as source with every request (docs/architecture.md, "How an image is pushed"), because a module's archive
alone would be a hundred times as large as the data of a code change. It imports the standard library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

SPOOL = Path("/var/lib/hostwright/push") if os.geteuid() == 0 else Path.home() / ".cache/hostwright/push"
CONTAINERD_ROOTS = ("/var/lib/containerd", "{root}/containerd/daemon")
BLOBS = "io.containerd.content.v1.content/blobs/sha256"
DIGEST_LABEL = "org.hostwright.build-digest"
STAGING = "hostwright-staging"
ASK_SECONDS = 30.0
LOAD_SECONDS = 1800.0
IDLE_SECONDS = 120
KEPT_SECONDS = 86400.0
BLOCK = 1 << 20
LARGEST_PIECE = 16 << 20  # uncompressed


class HostError(Exception):
    """The host cannot receive the image; the message is for the person who deploys."""


class LoadError(Exception):
    """The Engine did not load an archive; another archive may still succeed."""


class DamageError(Exception):
    """The content of a piece or a layer is damaged."""


def zstd() -> ctypes.CDLL:
    """Load the library libzstd, which every Debian and Ubuntu host has, because dpkg and systemd need it.

    Raises:
        HostError: the library is missing.
    """
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise HostError("libzstd.so.1 is missing on the host: install it (package libzstd1)") from error
    library.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
    library.ZSTD_decompress.restype = ctypes.c_size_t
    return library


def decompress(piece: bytes) -> bytes:
    """Decompress one zstd frame whose header contains the size of the content.

    Raises:
        DamageError: the bytes are not such a frame.
    """
    library, length = zstd(), ctypes.c_size_t(len(piece))
    size = library.ZSTD_getFrameContentSize(piece, length)
    if size > LARGEST_PIECE:  # the two greatest numbers mean that the size is unknown
        raise DamageError
    content = ctypes.create_string_buffer(size + 1)
    if library.ZSTD_decompress(content, ctypes.c_size_t(size), piece, length) != size:
        raise DamageError
    return content.raw[:size]


def docker(*arguments: str, limit: float = ASK_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run one docker command, whatever its exit status.

    Raises:
        HostError: the program is missing, or does not end within ``limit`` seconds.
    """
    try:
        return subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=limit, check=False
        )
    except (FileNotFoundError, PermissionError) as error:
        raise HostError("no program 'docker' on the host: install the Docker Engine first (role docker)") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(
            f"the Docker Engine of the host does not answer: 'docker {' '.join(arguments[:2])}' did not end within "
            f"{limit:.0f} s; see 'systemctl status docker' there"
        ) from error


def inspect(reference: str) -> dict[str, Any] | None:
    """The image with that reference, or None if it does not exist.

    Raises:
        HostError: the Engine does not answer.
    """
    done = docker("image", "inspect", reference)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout)[0]
        return found
    if "no such" in done.stderr.lower():
        return None
    raise HostError(f"the Docker Engine of the host does not answer: {done.stderr.strip()}")


def layers_of(image: dict[str, Any] | None) -> list[str]:
    """Diff ids of an image's layers, without the prefix ``sha256:``."""
    found = (image or {}).get("RootFS", {}).get("Layers") or []
    return [layer.removeprefix("sha256:") for layer in found]


def is_present(request: dict[str, Any]) -> bool:
    """Whether the reference names an image with the wanted layers and the wanted digest of its source."""
    image = inspect(request["image"])
    labels = (image or {}).get("Config", {}).get("Labels") or {}
    return image is not None and layers_of(image) == request["layers"] and labels.get(DIGEST_LABEL) == request["digest"]


class Engine:
    """The host's Engine: its image store, the layers in it, and its directories."""

    def __init__(self) -> None:
        done = docker("info", "--format", "{{json .}}")
        information = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        if not information.get("DockerRootDir"):
            reason = done.stderr.strip() or "; ".join(information.get("ServerErrors") or [])
            raise HostError(f"the Docker Engine of the host does not answer: {reason}")
        self.root = Path(information["DockerRootDir"])
        self.containerd = ["driver-type", "io.containerd.snapshotter.v1"] in (information.get("DriverStatus") or [])
        roots = [Path(root.format(root=self.root)) for root in CONTAINERD_ROOTS] if self.containerd else []
        self.blobs = [root / BLOBS for root in roots if (root / BLOBS).is_dir()]

    def has(self, layers: Sequence[str]) -> list[str]:
        """The layers that an archive may omit.

        The classic store identifies a layer by itself and the layers below it, so these are the longest common
        beginning with any image. In containerd's store these are the layers that it has uncompressed: of a pulled image
        it has compressed layers only, and an image that shared them would be incomplete (it runs, but cannot be saved).
        """
        if self.containerd:
            return [layer for layer in layers if any((blobs / layer).exists() for blobs in self.blobs)]
        ids = sorted(set(docker("image", "ls", "--all", "--quiet", "--no-trunc").stdout.split()))
        if not ids:
            return []
        length = 0
        # If an image was removed meanwhile, the command fails but still prints the others.
        for line in docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", *ids).stdout.splitlines():
            found = [layer.removeprefix("sha256:") for layer in json.loads(line) or []]
            common = next((n for n, pair in enumerate(zip(found, layers)) if pair[0] != pair[1]), None)  # noqa: B905
            length = max(length, min(len(found), len(layers)) if common is None else common)
        return list(layers[:length])

    def room(self) -> list[dict[str, Any]]:
        """Path, device and free bytes of the directories that the push fills: the image store, then the spool."""
        places = [*self.blobs[:1], self.root] if self.containerd else [self.root]
        spool = next(path for path in (SPOOL, *SPOOL.parents) if path.exists())
        return [
            {"path": str(path), "device": path.stat().st_dev, "free": shutil.disk_usage(path).free}
            for path in [*places[:1], spool]
        ]


def refusal(records: Path, reference: str, digest: str) -> str:
    """The reason why the host must refuse an image with that name; empty if it accepts the image.

    Raises:
        HostError: a release record is unreadable.
    """
    deployed: dict[str, int] = {}
    for path in sorted(records.glob("*/release.json")):
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
                continue  # not a record: the site may write to this directory, but a record belongs to root
            record = json.loads(path.read_text())
            image, known, release = record["image"], record["source_digest"], int(record["release"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise HostError(f"the release record {path} cannot be read: {error}") from error
        if image == reference and known != digest:
            deployed[known] = max(deployed.get(known, 0), release)
    for known, release in deployed.items():
        return (
            f"{reference} is deployed here already (release {release}, source {known[:12]}), and the source to "
            f"deploy now is different ({digest[:12]}): a version is immutable. Raise the number in VERSION, or "
            "set another one with -e site_version=…"
        )
    return ""


def query(request: dict[str, Any]) -> dict[str, Any]:
    """Report whether the host has the image; if not, which layers and pieces it has, and its free disk space.

    Raises:
        HostError: the host must refuse the image, or cannot receive it.
    """
    machine = platform.machine()
    if request["platform"] not in ("", machine):
        raise HostError(
            f"{request['image']} is for {request['platform']}, this host is {machine}: set image_builder to a builder "
            "with the host's processor"
        )
    if request["records"]:
        reason = refusal(Path(request["records"]), request["image"], request["source_digest"])
        if reason:
            raise HostError(reason)
    if request["check"] and shutil.which("docker") is None:
        return {"present": False, "have": [], "spooled": [], "room": [], "store": "none"}
    if is_present(request):
        return {"present": True}
    return {"present": False, **state(request)}


def state(request: dict[str, Any]) -> dict[str, Any]:
    """The layers and pieces of the image that the host has, and its free disk space."""
    engine = Engine()
    zstd()
    return {
        "have": engine.has(request["layers"]),
        "spooled": [path.name for path in SPOOL.glob("*.zst")] if SPOOL.is_dir() else [],
        "room": engine.room(),
        "store": "containerd" if engine.containerd else "classic",
    }


def take(pieces: Sequence[Sequence[Any]], stream: IO[bytes]) -> None:
    """Receive pieces into the spool; each gets its name there only if it is complete and undamaged.

    Args:
        pieces: name (the SHA-256 of the content with ``.zst``) and length in bytes of each piece.
        stream: the contents of the pieces, one after the other.

    Raises:
        HostError: the connection was cut.
        OSError: a piece cannot be written.
    """
    SPOOL.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, length in pieces:
        part = SPOOL / f"{name}.{os.getpid()}.part"
        try:
            digest = hashlib.sha256()
            with part.open("wb") as out:
                for block in blocks(stream, length):
                    digest.update(block)
                    out.write(block)
            if f"{digest.hexdigest()}.zst" == name:
                part.rename(SPOOL / name)
        finally:
            part.unlink(missing_ok=True)


def blocks(stream: IO[bytes], length: int) -> Iterator[bytes]:
    """Yield ``length`` bytes of a stream in blocks.

    Raises:
        HostError: the stream ended earlier.
    """
    while length:
        signal.alarm(IDLE_SECONDS)
        block = stream.read(min(length, BLOCK))
        signal.alarm(0)
        if not block:
            raise HostError("the connection was cut while the image was sent: run again to send the rest")
        length -= len(block)
        yield block


def sweep() -> None:
    """Remove files from the spool that are older than a day."""
    for path in SPOOL.glob("*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                path.unlink()


def contents(paths: Sequence[Path], digest: hashlib._Hash) -> Iterator[bytes]:
    """Yield the decompressed pieces of a layer, and update the digest with them.

    Raises:
        DamageError: a piece is damaged.
    """
    for path in paths:
        content = decompress(path.read_bytes())
        digest.update(content)
        yield content


def write_archive(out: IO[bytes], request: dict[str, Any], staging: str) -> None:
    """Write an archive of the sent layers that every Engine loads, into either image store.

    Raises:
        LoadError: a layer in the spool is damaged; its pieces were removed.
    """
    config, manifest = request["config"].encode(), request["manifest"].encode()
    config_digest, manifest_digest = (hashlib.sha256(content).hexdigest() for content in (config, manifest))

    def add(name: str, size: int, blocks: Iterable[bytes]) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o644
        out.write(member.tobuf(tarfile.GNU_FORMAT))
        for block in blocks:  # without tarfile, which would copy it in parts of 10 kB
            out.write(block)
            size -= len(block)
        if size:
            raise DamageError
        out.write(bytes(-member.size % tarfile.BLOCKSIZE))

    def add_json(name: str, value: Any) -> None:
        content = json.dumps(value).encode()
        add(name, len(content), [content])

    add_json("oci-layout", {"imageLayoutVersion": "1.0.0"})
    for digest, content in ((config_digest, config), (manifest_digest, manifest)):
        add(f"blobs/sha256/{digest}", len(content), [content])
    for layer, sent in request["sent"].items():
        paths = [SPOOL / name for name, _ in sent["pieces"]]
        found = hashlib.sha256()
        try:
            add(f"blobs/sha256/{layer}", sent["size"], contents(paths, found))
            whole = found.hexdigest() == layer
        except (DamageError, FileNotFoundError):
            whole = False
        if not whole:
            for path in paths:
                path.unlink(missing_ok=True)
            raise LoadError(f"layer {layer[:12]} is damaged in the host's {SPOOL}")
    descriptor = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{manifest_digest}",
        "size": len(manifest),
        "annotations": {
            "io.containerd.image.name": f"docker.io/library/{staging}",
            "org.opencontainers.image.ref.name": staging.partition(":")[2],
        },
    }
    add_json("index.json", {"schemaVersion": 2, "manifests": [descriptor]})
    layers = [f"blobs/sha256/{layer}" for layer in request["layers"]]
    add_json("manifest.json", [{"Config": f"blobs/sha256/{config_digest}", "RepoTags": [staging], "Layers": layers}])
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Load the image from the spool; on any failure the image's tag is as before.

    Returns:
        ``loaded``; if that is false, also ``failed`` (the reason), ``missing`` (whether pieces are), and the new state.
    """
    with locked():
        wanted = [SPOOL / name for sent in request["sent"].values() for name, _ in sent["pieces"]]
        if is_present(request):  # another push was faster
            return {"loaded": True, "sent": False}
        if not all(path.exists() for path in wanted):
            return {"loaded": False, "missing": True, **state(request)}
        staging = f"{STAGING}:{os.getpid()}-{time.time_ns():x}"
        (SPOOL / "staging").write_text(staging)
        try:
            run_load(request, staging)
            verify(request, staging)
            must("tag", staging, request["image"])
        except LoadError as error:
            missing = not all(path.exists() for path in wanted)
            return {"loaded": False, "missing": missing, "failed": str(error), **state(request)}
        finally:
            clear(staging)
        for path in wanted:
            path.unlink(missing_ok=True)
    return {"loaded": True, "sent": True}


@contextmanager
def locked() -> Iterator[None]:
    """Lock the spool, so that one load runs at a time on a host; clean up after a killed load."""
    SPOOL.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (SPOOL / "lock").open("w") as lock:
        os.utime(lock.fileno())
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            clear((SPOOL / "staging").read_text())
        yield


def clear(staging: str) -> None:
    """Remove the staging tag and the container that verifies it."""
    if staging:
        docker("image", "rm", "--force", staging)
    if docker("ps", "--all", "--quiet", "--filter", f"name=^{container_of(staging)}$").stdout:
        docker("rm", "--force", "--volumes", container_of(staging))
    (SPOOL / "staging").unlink(missing_ok=True)


def container_of(staging: str) -> str:
    """Name of the container that is created from the staging tag."""
    return staging.replace(":", "-")


def run_load(request: dict[str, Any], staging: str) -> None:
    """Stream the archive into ``docker load``.

    Raises:
        LoadError: the Engine refuses it; some Engines only print an error and exit with status 0.
    """
    command = ["docker", "load", "--quiet"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pipesize=BLOCK
    ) as loading:
        assert loading.stdin is not None  # noqa: S101 (it is a pipe)
        try:
            with suppress(BrokenPipeError):  # the Engine gave up; its output contains the reason
                write_archive(loading.stdin, request, staging)
            output = loading.communicate(timeout=LOAD_SECONDS)[0].decode(errors="replace").strip()
        except BaseException as error:
            loading.kill()
            with suppress(BrokenPipeError):  # buffered bytes have no reader any more
                loading.stdin.close()
            if isinstance(error, subprocess.TimeoutExpired):
                raise LoadError(f"'docker load' did not end within {LOAD_SECONDS:.0f} s") from error
            raise
    if loading.returncode != 0 or "error" in output.lower():
        raise LoadError(f"'docker load' failed ({loading.returncode}): {output}")


def verify(request: dict[str, Any], staging: str) -> None:
    """Check that the staging tag names the wanted image, and that a container can be created from it.

    Raises:
        LoadError: a check failed.
    """
    image = inspect(staging)
    if image is None:
        raise LoadError("'docker load' created no image")
    ids = {f"sha256:{hashlib.sha256(request[key].encode()).hexdigest()}" for key in ("config", "manifest")}
    if image["Id"] not in ids or layers_of(image) != request["layers"]:
        raise LoadError(f"the Engine loaded a different image: {image['Id']}")
    must(
        "create", "--name", container_of(staging), "--label", "hostwright=check", "--pull", "never",
        "--network", "none", staging, "/",
    )  # fmt: skip
    must("rm", "--volumes", container_of(staging))


def must(*arguments: str) -> None:
    """Run a docker command that must succeed.

    Raises:
        LoadError: the command failed.
    """
    done = docker(*arguments)
    if done.returncode != 0:
        raise LoadError(f"'docker {arguments[0]}' failed: {done.stderr.strip()}")


def answer(stream: IO[bytes]) -> dict[str, Any]:
    """Read and execute a request: ``query``, ``take`` (receive the pieces that follow) or ``load`` (take, then load).

    Args:
        stream: a line with the length of the request, the request as compressed JSON, and the pieces.

    Returns:
        The answer; its key ``error``, if present, is the reason of a failure.
    """
    request = json.loads(zlib.decompress(stream.read(int(stream.readline()))))
    try:
        if request["do"] == "query":
            return query(request)
        sweep()
        take(request["pieces"], stream)
        return load(request) if request["do"] == "load" else {}
    except HostError as error:
        return {"error": str(error)}
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        return {"error": f"cannot push to the host: {error.strerror or error}{where}"}
    finally:
        while stream.read(BLOCK):  # read all input: otherwise Ansible would report the host as unreachable
            pass


def stop(number: int, frame: object) -> None:  # noqa: ARG001
    """End with an error, so that temporary files are removed."""
    raise HostError(f"stopped by signal {number}")


def main() -> None:
    """Answer the one request on standard input with one line of JSON."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, stop)
    os.environ["LC_ALL"] = "C"
    os.environ["PATH"] += ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
    print("\n" + json.dumps(answer(sys.stdin.buffer)), flush=True)


if __name__ == "__main__":
    main()
