"""The push of an image to hosts, compared with the two ways it replaces: a pipe from save to load, and a registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from bench.lab import DIRECTORY, PROJECT, Lab, Run, call, pipe, say
from bench.report import Figure, Section, Table, Target

HOSTS = ("h1", "h2", "h3", "h4")
NAME = "hostwright-bench"
SPOOL = "/var/lib/hostwright/push"
STORE = DIRECTORY / "images"
SOURCE = DIRECTORY / "site"
CHANGED = SOURCE / "polls" / "views.py"
# The targets: bytes in addition to a change's layers, bytes of no change, seconds of a change, bytes of memory.
ALLOWANCE = 64e3
LEAST = 8e3
QUICK = 1.5
MEMORY = 64e6

NOTES = """\
"On the wire" is the traffic of the host's interface in both directions, with SSH, TCP and IP. A new connection was
opened for each sample, except in the first row of "Nothing changed"; in a deployment earlier tasks have opened one. The
time of `push_image` is that of its tasks. It includes the export from the builder's Engine, which is made once for any
number of hosts. The time of the registry is that of `docker push` and `docker pull`. The processor time of the control
node excludes its Docker Engine in all rows. The hosts share the control node's cores: with several hosts the command
takes longer because they load the image at the same time.
"""

Sample = tuple[float, float, float]  # bytes on the wire, seconds, processor seconds of the control node


def measure(lab: Lab) -> Section:
    """Measure the push and return the report."""
    lab.make_hosts(*HOSTS, "registry")
    say("installing a registry to compare with")
    address = lab.address("registry")
    lab.playbook("registry", bench_registry=f"{address}:5000")
    bench = PushBench(lab, f"{address}:5000")
    few, many = (1, 2) if lab.quick else (3, 5)

    unchanged, first, changed = Samples(), Samples(), Samples()
    for sample in range(few):
        say(f"the whole image, {sample + 1} of {few}")
        bench.whole(first)
    for sample in range(many):
        say(f"a change of the code, {sample + 1} of {many}")
        bench.change(changed)
    for sample in range(many):
        say(f"no change, {sample + 1} of {many}")
        bench.nothing(unchanged)
    trips = lab.round_trips("push", HOSTS[0], built=bench.built)
    hosts = [bench.several(count, few) for count in (1, 2, 4)]

    ours, ours_whole, idle = changed.of("push_image"), first.of("push_image"), unchanged.of("push_image")
    pipe_whole = first.of("save, zstd, load")
    layers = max(bench.sent)
    zstd = bench.zstd_size()
    return Section(
        "push",
        "The push of an image",
        lab.conditions(
            hosts=f"{lab.engine_of(HOSTS[0])}, in containers reached over SSH as an ordinary user with sudo",
            image=f"the reference site, {bench.built['size'] / 1e6:.0f} MB, {len(bench.built['layers'])} layers",
            samples=f"{many} of a change and of none, {few} of the rest",
        ),
        [
            Table(Samples.COLUMNS, changed.rows, "A change of the code, one line:"),
            Table(Samples.COLUMNS, unchanged.rows, "Nothing changed:"),
            Table(Samples.COLUMNS, first.rows, "The whole image, to a host that has none of its layers:"),
            Table(
                ("hosts at once", "code changed: command", "control node's CPU", "peak memory",
                 "whole image: command", "control node's CPU", "peak memory"),
                [several.cells for several in hosts],
                "Several hosts: the whole `ansible-playbook` command, with the image in the store. Memory is that of "
                "all its processes, less that of a command that does nothing on these hosts:",
            ),
        ],
        [
            Target("bytes of a change", ours[0], 1.05 * layers + ALLOWANCE, "1.05 × the compressed layer + 64 kB"),
            Target("seconds of a change", ours[1], QUICK),
            Target("bytes of no change", idle[0], LEAST),
            Target("round trips of no change", Figure((trips,), ""), 1),
            Target("bytes of the whole image", ours_whole[0], 1.02 * zstd, "1.02 × `docker save` as zstd"),
            Target("seconds of the whole image", ours_whole[1], pipe_whole[1].median, "the pipe's"),
            *(
                Target(f"memory for {several.count} host{'s' * (several.count > 1)}", several.memory, MEMORY)
                for several in hosts
            ),
        ],
        NOTES,
    )  # fmt: skip


class Samples:
    """Samples of several ways to bring an image to a host."""

    COLUMNS = ("way", "on the wire", "time", "control node's CPU")

    def __init__(self) -> None:
        self._samples: dict[str, list[Sample]] = {}

    def add(self, way: str, sample: Sample) -> None:
        """Add a sample of a way."""
        self._samples.setdefault(way, []).append(sample)

    def of(self, way: str) -> tuple[Figure, Figure, Figure]:
        """Return the figures of a way: bytes, seconds, processor seconds."""
        wire, seconds, cpu = (tuple(values) for values in zip(*self._samples[way], strict=True))
        return Figure(wire, "kB" if max(wire) < 1e6 else "MB"), Figure(seconds, "s"), Figure(cpu, "s")

    @property
    def rows(self) -> list[list[object]]:
        """The rows of a table."""
        return [[way, *self.of(way)] for way in self._samples]


class Several:
    """Pushes to several hosts at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.runs: dict[str, list[Run]] = {"change": [], "whole": []}
        self.peaks: dict[str, list[float]] = {"change": [], "whole": []}

    @property
    def memory(self) -> Figure:
        """Peak memory, less what Ansible itself needs for this number of hosts."""
        return Figure(tuple(self.peaks["whole"]), "MB")

    @property
    def cells(self) -> list[object]:
        """The row of the table."""
        cells: list[object] = [self.count]
        for what, runs in self.runs.items():
            cells += [Figure(tuple(run.seconds for run in runs), "s"), Figure(tuple(run.cpu for run in runs), "s")]
            cells.append(Figure(tuple(self.peaks[what]), "MB"))
        return cells


class PushBench:
    """The site in its versions, a registry, and the ways to bring it to hosts."""

    def __init__(self, lab: Lab, registry: str) -> None:
        self.lab = lab
        self.registry = registry
        self.near = f"127.0.0.1:{lab.port('registry', 5000)}"  # this machine's Engine accepts it without TLS
        self.version = 0
        self.built: dict[str, Any] = {}
        self.sent: list[int] = []
        shutil.copytree(PROJECT / "app", SOURCE)
        say("building the site")
        self.build_next()

    @property
    def image(self) -> str:
        """Name of the newest version."""
        return f"{NAME}:{self.version}"

    def build_next(self) -> None:
        """Change a line and build the next version."""
        self.version += 1
        with CHANGED.open("a") as code:
            code.write(f"# change {self.version}\n")
        self.lab.will_remove(self.image)
        self._build(export=False)

    def export(self) -> Run:
        """Export the newest version into the store."""
        return self._build(export=True)

    def _build(self, export: bool) -> Run:
        run = self.lab.playbook(
            "build", "workstation", image_name=NAME, image_source=str(SOURCE), image_version=str(self.version),
            image_archive_directory=str(STORE), image_export=export,
        )  # fmt: skip
        results = next(hosts for name, hosts in run.results.items() if name.endswith("Build the image and export it"))
        result = results["workstation"]
        self.built = {key: result[key] for key in ("image", "archive", "layers", "digest", "platform", "size")}
        return run

    def push(self, limit: str = HOSTS[0], watch: bool = False) -> Run:
        """Push the newest version."""
        return self.lab.playbook("push", limit, watch, built=self.built)

    def forget(self, host: str, everything: bool) -> None:
        """Remove the newest version, or every version, from a host."""
        images = self.lab.on(host, "docker", "image", "ls", "--quiet", *([] if everything else [self.image])).split()
        pulled = self.lab.on(host, "docker", "image", "ls", "--quiet", f"{self.registry}/{self.image}").split()
        for image in {*images, *pulled}:
            self.lab.on(host, "docker", "image", "rm", "--force", image)
        self.lab.on(host, "rm", "-rf", SPOOL)

    def sample(self, act: Callable[[], tuple[float, float]]) -> Sample:
        """Sample an action on the first host; ``act`` returns seconds of wall and of processor time."""
        before = self.lab.wire(HOSTS[0])
        seconds, cpu = act()
        return self.lab.wire(HOSTS[0]) - before, seconds, cpu

    def whole(self, samples: Samples) -> None:
        """Sample each way to bring the whole image; neither the host nor the store has a layer of it."""
        shutil.rmtree(STORE, ignore_errors=True)
        self.lab.on("registry", "sh", "-c", "systemctl stop docker-registry; rm -rf /var/lib/docker-registry/docker")
        self.lab.on("registry", "systemctl", "start", "docker-registry")
        for name, act in self.ways.items():
            self.forget(HOSTS[0], everything=True)
            self.lab.disconnect()
            samples.add(name, self.sample(act))

    def change(self, samples: Samples) -> None:
        """Sample each way to bring a new version to a host that has the previous one."""
        self.build_next()
        for name, act in self.ways.items():
            self.forget(HOSTS[0], everything=False)
            self.lab.disconnect()
            samples.add(name, self.sample(act))
            if act == self.by_push:
                self.sent.append(self.result["bytes"])
        self.forget(HOSTS[0], everything=False)
        self.push()

    def nothing(self, samples: Samples) -> None:
        """Sample a push to a host that has the image."""
        samples.add("push_image", self.sample(self.by_push_alone))
        self.lab.disconnect()
        samples.add("push_image, with a new connection", self.sample(self.by_push_alone))

    @property
    def ways(self) -> dict[str, Callable[[], tuple[float, float]]]:
        """The ways to bring an image to a host, by name."""
        return {
            "push_image": self.by_push,
            "save, zstd, load": self.by_pipe,
            "registry": self.by_registry,
        }

    def by_push(self) -> tuple[float, float]:
        """Export and push."""
        exported = self.export()
        seconds, cpu = self.by_push_alone()
        return seconds + sum(exported.tasks.values()), cpu + exported.cpu

    def by_push_alone(self) -> tuple[float, float]:
        """Push the image in the store."""
        run = self.push()
        self.result = run.results["Push"][HOSTS[0]]
        return run.tasks["Push"], run.cpu

    def by_pipe(self) -> tuple[float, float]:
        """Send the whole image through one pipe."""
        return pipe(
            ["docker", "save", self.image],
            ["zstd", "--quiet", "--stdout"],
            self.lab.ssh(HOSTS[0], "docker", "load", "--quiet"),
        )

    def by_registry(self) -> tuple[float, float]:
        """Push to a registry, and pull from it."""
        near = f"{self.near}/{self.image}"
        call("docker", "tag", self.image, near)
        try:
            there = pipe(["docker", "push", "--quiet", near])
            back = pipe(self.lab.ssh(HOSTS[0], "docker", "pull", "--quiet", f"{self.registry}/{self.image}"))
        finally:
            call("docker", "image", "rm", near)
        return there[0] + back[0], there[1] + back[1]

    def zstd_size(self) -> int:
        """Return the bytes of the newest version as compressed by zstd in the pipe."""
        return int(call("sh", "-c", f"docker save {self.image} | zstd --quiet --stdout | wc --bytes"))

    def several(self, count: int, samples: int) -> Several:
        """Push a change and the whole image to ``count`` hosts at once."""
        found = Several(count)
        hosts = HOSTS[:count]
        limit = ",".join(hosts)
        idle = self.lab.playbook("nothing", limit, watch=True).memory
        for sample in range(samples):
            for what, runs in found.runs.items():
                say(f"{count} at once, {what}, {sample + 1} of {samples}")
                for watch in (False, True):  # measuring memory takes time itself
                    for host in hosts:
                        self.forget(host, everything=what == "whole")
                    if what == "change":
                        self.push(limit)
                        self.build_next()
                        self.export()
                    run = self.push(limit, watch)
                    if watch:
                        found.peaks[what].append(max(run.memory - idle, 0))
                    else:
                        runs.append(run)
        return found
