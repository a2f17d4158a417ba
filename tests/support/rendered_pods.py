"""A rendered pod, run for real from our images, without a cluster.

What the chart says is what happens: the init containers one after the other, then the container,
each with its command, arguments and environment (secrets looked up), as its user, without
capabilities, on a read-only root with a tmpfs for each emptyDir, and at the end SIGTERM after the
preStop pause. What is not here is Kubernetes: no pod network (ports are this machine's), no memory
limits, and no probe but the readiness that the test asks for.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from support.built_images import BuiltImage

Object = dict[str, Any]
Secrets = Mapping[str, Mapping[str, str]]


class RenderedPod:
    """A pod's spec, with the images that it may name and the secrets that it may ask for."""

    def __init__(self, spec: Object, images: Mapping[str, BuiltImage], secrets: Secrets) -> None:
        assert spec["securityContext"]["runAsUser"] == 65532  # as BuiltImage starts programs
        self._spec = spec
        self._images = images
        self._secrets = secrets

    @property
    def image(self) -> BuiltImage:
        """That of the main container."""
        return self._image(self._main)

    def environment(self, container: Object | None = None) -> dict[str, str]:
        """What a container's program sees, beyond what its image sets."""
        chosen = container or self._main
        return {one["name"]: self._value(one) for one in chosen.get("env", [])}

    @contextlib.contextmanager
    def running(
        self, log: Path, visible: Path | None = None
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """The main container's process, after the init containers; killed at the end if it runs.

        `visible` is a folder of ours that is /mnt in every container.
        """
        for container in self._spec.get("initContainers", []):
            with self._started(container, log.with_suffix(".init"), visible) as process:
                code = process.wait(timeout=120)
            assert code == 0, f"{container['name']}: {log.with_suffix('.init').read_text()}"
        with self._started(self._main, log, visible) as process:
            yield process

    def stop(self, process: "subprocess.Popen[bytes]") -> int:
        """As the kubelet ends it: preStop, SIGTERM, the grace period. The exit code."""
        pause = self._main["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace = self._spec["terminationGracePeriodSeconds"]
        time.sleep(pause)
        process.terminate()
        return process.wait(timeout=grace - pause)

    @property
    def _main(self) -> Object:
        [main] = self._spec["containers"]
        return main

    def _started(
        self, container: Object, log: Path, visible: Path | None
    ) -> contextlib.AbstractContextManager["subprocess.Popen[bytes]"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert not security["allowPrivilegeEscalation"]
        program = [*container["command"], *container.get("args", [])]
        return self._image(container).started(
            log,
            program,
            self.environment(container),
            scratch=self._empty_folders(container),
            visible=visible,
        )

    def _image(self, container: Object) -> BuiltImage:
        return self._images[container["image"].rpartition("/")[2].partition(":")[0]]

    def _empty_folders(self, container: Object) -> list[str]:
        """Where its emptyDirs are mounted; any other volume is a mistake of the test."""
        volumes = {volume["name"]: volume for volume in self._spec["volumes"]}
        paths = []
        for mount in container["volumeMounts"]:
            assert "emptyDir" in volumes[mount["name"]], mount
            paths.append(mount["mountPath"])
        return paths

    def _value(self, one: Object) -> str:
        if "value" in one:
            return str(one["value"])
        key = one["valueFrom"]["secretKeyRef"]
        return self._secrets[key["name"]][key["key"]]
