"""A Ray of several nodes for tests, each `ray start` a process of its own; and nodes in network namespaces.

Nothing here looks for processes by name: a node's processes are the children of what was started.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from components.training.training_job import TrainingJob
from infra.ports import free_ports

ROOT = Path(__file__).parents[3]

THROUGH_JOBS = """
import sys
from pathlib import Path
from components.training.training_job import TrainingJob
from components.training.ray_trainer import train

job = TrainingJob.read(Path(sys.argv[1]))
print(train(job, launcher="jobs", address=sys.argv[2], on_line=lambda line: print(line.step)).digest)
"""


def wait_until(condition: Callable[[], object], limit_s: float = 480.0) -> float:
    """Seconds until it was so."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < limit_s, "it did not come to that"
        time.sleep(0.05)
    return time.monotonic() - began_s


class Cluster:
    """A head and other nodes that it is told of: free ports, a token, one folder that all its command lines name."""

    def __init__(
        self, cpus: int = 2, host: str = "127.0.0.1", prefix: tuple[str, ...] = (), **settings: str
    ) -> None:
        self.temp = Path(tempfile.mkdtemp(prefix="dhead-", dir="/tmp"))
        token = self.temp / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        self._host, self._prefix = host, prefix
        self.gcs, self.dashboard, client = free_ports(3)
        self.address = f"http://{host}:{self.dashboard}"
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **settings,
        }
        head = ["--head", "--port", self.gcs, "--dashboard-host", host]
        head += ["--dashboard-port", self.dashboard, "--ray-client-server-port", client]
        self.nodes = [self._start(cpus, host, prefix, head)]

    def join(
        self, cpus: int, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        """Another node."""
        node = self._start(cpus, host, prefix, ["--address", f"{self._host}:{self.gcs}"])
        self.nodes.append(node)
        return node

    def is_up(self) -> bool:
        """Whether every node has joined, and the Jobs API listens."""
        said = (self.temp / "log").read_text()
        assert self.nodes[0].poll() is None, said
        if said.count("Ray runtime started.") < len(self.nodes):
            return False
        words = (
            "-c",
            f"import socket; socket.create_connection(({self._host!r}, {self.dashboard}), 1)",
        )
        return not subprocess.run([*self._prefix, sys.executable, *words], capture_output=True, check=False).returncode  # fmt: skip

    @contextlib.contextmanager
    def start(self, job: TrainingJob) -> Iterator[subprocess.Popen[str]]:
        """A process of its own that trains a job through this Ray, and prints its checkpoint's digest."""
        file = job.folder.with_suffix(".json")
        file.write_text(json.dumps(job.to_dict()))
        caller = subprocess.Popen(
            [*self._prefix, sys.executable, "-c", THROUGH_JOBS, str(file), self.address],
            cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield caller
        finally:  # a test that failed does not wait for its training
            caller.kill()
            caller.wait()
            for stream in (caller.stdout, caller.stderr):
                stream.close()

    def processes(self, *names: str, node: int = 0) -> list[psutil.Process]:
        """Processes of a node whose command line holds one of these."""
        found = []
        for process in psutil.Process(self.nodes[node].pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any(name in " ".join(process.cmdline()) for name in names):
                    found.append(process)
        return found

    def end(self) -> None:
        """Kill every node with all its processes."""
        for node in self.nodes:
            kill_tree(node)
        shutil.rmtree(self.temp, ignore_errors=True)

    def _start(
        self, cpus: int, host: str, prefix: tuple[str, ...], words: list[object]
    ) -> subprocess.Popen[bytes]:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *map(str, words)]
        ray += ["--node-ip-address", host, "--num-cpus", str(cpus), "--disable-usage-stats"]
        for kind in ("min-worker-port", "max-worker-port", "dashboard-agent-listen-port"):
            ray += [f"--{kind}", "0"]
        ray += ["--dashboard-agent-grpc-port", "0", "--metrics-export-port", "0"]
        ray += ["--runtime-env-agent-port", "0", "--object-store-memory", str(80 * 2**20)]
        if "--head" in words:
            ray += ["--temp-dir", str(self.temp / "s")]
        with (self.temp / "log").open("a") as log:
            return subprocess.Popen(
                [*prefix, *ray], env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )


def kill_tree(started: subprocess.Popen[bytes]) -> None:
    """Kill a process with all that it started, and wait for them; again is no harm."""
    if started.poll() is not None:
        return
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(started.pid)
        tree = [*top.children(recursive=True), top]
        for process in tree:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(tree, timeout=10)
    started.wait()


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[tuple[str, tuple[str, ...]]]]:
    """`count` network namespaces on one bridge: (address, words that run a command there) of each. Needs root.

    What a killed test left of them is removed first.
    """
    tag = f"d{os.getpid() % 10_000}"
    for name in _ip("netns", "list").split():
        if name.startswith("dray-") and not Path(f"/proc/{name.split('-')[1]}").exists():
            _ip("netns", "delete", name)
    bridge = f"{tag}b"
    names = [f"dray-{os.getpid()}-{number}" for number in range(count)]
    try:
        # The bridge lives in a namespace too: the machine's own network is not touched.
        hub = f"dray-{os.getpid()}-hub"
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", bridge, "type", "bridge")
        _ip("-n", hub, "link", "set", bridge, "up")
        for number, name in enumerate(names):
            _ip("netns", "add", name)
            _ip("link", "add", f"{tag}e", "netns", name, "type", "veth", "peer", "name", f"{tag}p{number}", "netns", hub)  # fmt: skip
            _ip("-n", hub, "link", "set", f"{tag}p{number}", "master", bridge, "up")
            _ip("-n", name, "address", "add", f"10.213.7.{number + 1}/24", "dev", f"{tag}e")
            for device in (f"{tag}e", "lo"):
                _ip("-n", name, "link", "set", device, "up")
        yield [
            (f"10.213.7.{number + 1}", ("ip", "netns", "exec", name))
            for number, name in enumerate(names)
        ]
    finally:
        for name in [*names, f"dray-{os.getpid()}-hub"]:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout
