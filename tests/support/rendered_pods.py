"""A rendered pod, run for real from our images, without a cluster.

What the chart says is what happens: the init containers one after the other, then the container,
each with its command, arguments and environment (secrets looked up), as its user, without
capabilities, on a read-only root with a tmpfs for each emptyDir and the keys of Secrets and
ConfigMaps as files, and at the end SIGTERM after the preStop pause. What is not here is Kubernetes:
no pod network (ports are this machine's), no memory limits, and no probe but the readiness that
the test asks for.
"""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from support.built_images import BuiltImage, Mounts

Object = dict[str, Any]
Contents = Mapping[str, str]  # of a Secret or a ConfigMap, by key


class RenderedPod:
    """A pod's spec, and the cluster's part: images, what Secrets and ConfigMaps hold, the fields
    that environment variables ask for. Its mounted files are written to `folder`."""

    def __init__(
        self,
        spec: Object,
        images: Mapping[str, BuiltImage],
        folder: Path,
        secrets: Mapping[str, Contents],
        config_maps: Mapping[str, Contents] = MappingProxyType({}),
        fields: Contents = MappingProxyType({}),
    ) -> None:
        assert spec["securityContext"]["runAsUser"] == 65532  # as BuiltImage starts programs
        self._spec = spec
        self._images = images
        self._secrets = secrets
        self._config_maps = config_maps
        self._fields = fields
        self._folder = folder
        self.log = folder / "log"

    @property
    def image(self) -> BuiltImage:
        """That of the main container."""
        return self._image(self._main)

    @property
    def said(self) -> str:
        """The log of the main container."""
        return self.log.read_text()

    def environment(self, container: Object | None = None) -> dict[str, str]:
        """What a container's program sees, beyond what its image sets."""
        chosen = container or self._main
        found: dict[str, str] = {}
        for one in chosen.get("env", []):
            value = self._value(one)
            for name, before in found.items():  # only those that were named before, as Kubernetes
                value = value.replace(f"$({name})", before)
            found[one["name"]] = value
        return found

    @contextlib.contextmanager
    def running(self, mounts: Mounts = MappingProxyType({})) -> Iterator["subprocess.Popen[bytes]"]:
        """The main container's process, after the init containers; killed at the end if it runs.

        `mounts` are folders of ours that every container sees beside its own.
        """
        for container in self._spec.get("initContainers", []):
            log = self.log.with_suffix(".init")
            with self._started(container, log, mounts) as process:
                code = process.wait(timeout=120)
            assert code == 0, f"{container['name']}: {log.read_text()}"
        with self._started(self._main, self.log, mounts) as process:
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
        self, container: Object, log: Path, mounts: Mounts
    ) -> contextlib.AbstractContextManager["subprocess.Popen[bytes]"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert not security["allowPrivilegeEscalation"]
        program = [*container["command"], *container.get("args", [])]
        scratch, files = self._volumes(container)
        return self._image(container).started(
            log,
            program,
            self.environment(container),
            scratch=scratch,
            mounts={**files, **mounts},
        )

    def _image(self, container: Object) -> BuiltImage:
        return self._images[re.split("[:@]", container["image"].rpartition("/")[2])[0]]

    def _volumes(self, container: Object) -> tuple[list[str], dict[str, Path]]:
        """Where it has empty folders, and where folders of files."""
        volumes = {volume["name"]: volume for volume in self._spec["volumes"]}
        scratch, files = [], {}
        for mount in container["volumeMounts"]:
            volume = volumes[mount["name"]]
            if {"emptyDir", "ephemeral"} & volume.keys():
                scratch.append(mount["mountPath"])
            else:
                files[mount["mountPath"]] = self._written(volume)
        return scratch, files

    def _written(self, volume: Object) -> Path:
        """A Secret's or a ConfigMap's keys as files."""
        if "secret" in volume:
            source, contents = volume["secret"], self._secrets[volume["secret"]["secretName"]]
        else:
            source, contents = volume["configMap"], self._config_maps[volume["configMap"]["name"]]
        wanted = source.get("items") or [{"key": key, "path": key} for key in contents]
        folder = self._folder / "volumes" / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        for one in wanted:
            (folder / one["path"]).write_text(contents[one["key"]], encoding="utf-8")
        return folder

    def _value(self, one: Object) -> str:
        if "value" in one:
            return str(one["value"])
        if "fieldRef" in one["valueFrom"]:
            return self._fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
        key = one["valueFrom"]["secretKeyRef"]
        return self._secrets[key["name"]][key["key"]]
