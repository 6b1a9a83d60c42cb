"""Convert the archive of an image into one with compressed layers, as if it came from a registry.

An Engine with containerd's store that loads it has the same state as after a pull: layers stored compressed, under the
digests of the compressed layers.
Usage: as_pulled.py NAME <ARCHIVE_OF_DOCKER_SAVE >ARCHIVE
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile

with tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())) as saved:

    def read(name: str) -> bytes:
        """Return a file of the archive."""
        content = saved.extractfile(name)
        assert content is not None  # noqa: S101 (it is a file)
        return content.read()

    described = json.loads(read("manifest.json"))[0]
    config = read(described["Config"])
    layers = [gzip.compress(read(name), 1, mtime=0) for name in described["Layers"]]


def descriptor(kind: str, content: bytes, **more: object) -> dict[str, object]:
    """Return the OCI descriptor of a part of an image."""
    digest = hashlib.sha256(content).hexdigest()
    return {
        "mediaType": f"application/vnd.oci.image.{kind}",
        "digest": f"sha256:{digest}",
        "size": len(content),
        **more,
    }


manifest = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config),
        "layers": [descriptor("layer.v1.tar+gzip", layer) for layer in layers],
    }
).encode()
name = {"io.containerd.image.name": f"docker.io/library/{sys.argv[1]}"}
index = {"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", manifest, annotations=name)]}
files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode()}
for blob in (config, manifest, *layers):
    files[f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"] = blob
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
    for path, content in files.items():
        member = tarfile.TarInfo(path)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
