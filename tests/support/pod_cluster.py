"""What a chart's pod finds in its cluster: the store, its keys, certificates of one authority."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from support.built_images import TAG
from support.certificates import authority, signed
from support.charts import VALUES, objects_of, template
from support.node import Node
from support.rendered_pods import Contents, RenderedPod
from support.stores import S3Server

TOKEN = "a-token-that-only-this-test-has"
IMAGES = f"--set=global.imageRegistry=localhost,image.tag={TAG},image.digest="
NONE: Mapping[str, Contents] = MappingProxyType({})


class Cluster:
    """The store is at `url` on `server`; certificates are made in `folder`."""

    def __init__(self, node: Node, url: str, server: S3Server, folder: Path) -> None:
        self._node = node
        self._url = url
        self._server = server
        ca = authority(folder)
        pair = signed(folder, "server", ca, extension=f"subjectAltName=IP:{node.pod_address}")
        self.authority = ca.certificate
        self._tls = {
            "tls.crt": pair.certificate.read_text(),
            "tls.key": pair.key.read_text(),
            "ca.crt": ca.certificate.read_text(),
        }

    def pod(
        self,
        chart: str,
        values: str,
        *flags: str,
        secrets: Mapping[str, Contents] = NONE,
        kind: str = "Deployment",
    ) -> RenderedPod:
        """That of the chart's workload under these values, from our images, on the real store."""
        objects = objects_of(
            template(
                chart,
                f"--values={VALUES / chart / f'{values}.yaml'}",
                f"--set=global.store.url={self._url}",
                f"--set=global.store.endpoint={self._server.endpoint}",
                *(["--set=global.store.existingSecret=keys"] if values == "minimal" else []),
                IMAGES,
                *flags,
            )
        )
        [workload] = [one for one in objects if one["kind"] == kind]
        maps = {
            one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"
        }
        return RenderedPod(self._node, workload, {**maps, **self._given, **secrets})

    @property
    def _given(self) -> dict[str, Contents]:
        """The Secrets and the ConfigMap of the production values, and the one of the smallest."""
        keys = {name: value for name, value in self._server.environment.items() if "KEY" in name}
        caller = {
            "name": "app",
            "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
            "scopes": ["infer"],
        }
        return {
            **dict.fromkeys(("keys", "inference-store", "labeling-store", "backup"), keys),
            **dict.fromkeys(("demo-inference-tls", "demo-labeling-ingest-tls"), self._tls),
            "inference-tokens": {"tokens.yaml": json.dumps([caller])},
            "labeling-inference": {"token": TOKEN},
            "labels-ca": self._tls,
            **{name: {"ca.crt": self._tls["ca.crt"]} for name in ("store-ca", "backup-ca")},
        }
