"""This machine as a node: podman runs pods from the images that were built here.

Podman has a configuration of its own (Debian 12's 4.3, under runc, without systemd) and keeps all
it has in the images' storage: other containers of the machine are neither seen nor touched. Pods
are on a network whose gateway is this machine; what a test wants them to reach listens there, and
one pod at a time has the address that certificates can be made for.
"""

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.built_images import Storage

PACKAGES = {
    "podman": "podman",
    "runc": "runc",
    "catatonit": "catatonit",  # the process that holds a pod's namespaces
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
}
NETWORK = "visionloop-pods"
# What podman would set by itself, a machine that is a container must not always set.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
log_driver = "k8s-file"
shm_size = "1g"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "cni"
network_config_dir = "{networks}"
"""


class Node:
    """Podman on the images of `storage`; `folder` is for its configuration."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        configuration = folder / "containers.conf"
        configuration.write_text(CONFIGURATION.format(networks=folder / "networks"))
        self._flags = storage.flags
        self._environment = {
            **os.environ,
            "CONTAINERS_CONF": str(configuration),
            "DISABLE_HC_SYSTEMD": "true",  # probes by systemd's timers, and by a curl in the image
        }
        self.gateway = ""

    @property
    def pod_address(self) -> str:
        """That of the pod that runs."""
        return str(ipaddress.ip_address(self.gateway) + 9)

    def open(self) -> None:
        """Makes the network. Its gateway is there as long as a pod is on it, so one always is."""
        self.podman("network", "create", "--disable-dns", NETWORK)
        shown = "{{range .Subnets}}{{.Gateway}}{{end}}"
        self.gateway = self.podman("network", "inspect", f"--format={shown}", NETWORK)
        self.podman("pod", "create", f"--network={NETWORK}", "--name=gateway")
        self.podman("pod", "start", "gateway")

    def close(self) -> None:
        """Ends what runs; nothing is left on the machine."""
        self.podman("pod", "rm", "--all", "--force", "--time=0")
        self.podman("network", "rm", "--force", NETWORK)

    def podman(self, *arguments: str, input: str = "", timeout: float = 120) -> str:
        """What it prints."""
        done = self.asked(*arguments, input=input, timeout=timeout)
        assert done.returncode == 0, f"podman {arguments}: {done.stderr[-4000:]}"
        return done.stdout.strip()

    def asked(
        self, *arguments: str, input: str = "", timeout: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """A call that may fail."""
        return subprocess.run(
            ["podman", *self._flags, *arguments],
            env=self._environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@pytest.fixture(scope="session")
def node(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The node of this test run."""
    missing = {name: package for name, package in PACKAGES.items() if shutil.which(name) is None}
    if missing:
        programs, packages = " and no ".join(missing), " ".join(missing.values())
        pytest.skip(f"no {programs}: apt-get install {packages}")
    made = Node(storage, tmp_path_factory.mktemp("node"))
    try:
        made.open()
        yield made
    finally:
        made.close()
