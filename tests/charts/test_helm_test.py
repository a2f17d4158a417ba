"""The pod of `helm test`: it starts with whatever Secret TLS has, and trusts what it should."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.bundles import publish_bundle
from support.certificates import authority, signed
from support.charts import VALUES, Object, objects_of, one_of, template
from support.command_line import environment
from support.inference_server import running_server

from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

pytestmark = pytest.mark.usefixtures("helm_program")
TLS = "tls.mode=secret,tls.existingSecret=t"
MODEL = "cells"


def pod(*said: str) -> Object:
    values = f"--values={VALUES / 'inference' / 'minimal.yaml'}"
    objects = objects_of(template("inference", values, f"--set={','.join((TLS, *said))}"))
    spec: Object = one_of(objects, "Pod")["spec"]
    return spec


def authorities(spec: Object) -> Object:
    [found] = [one["secret"] for one in spec["volumes"] if one["name"] == "ca"]
    secret: Object = found
    return secret


def test_a_secret_without_ca_crt_does_not_keep_it_from_starting() -> None:
    """`kubectl create secret tls` makes none, and ACME issuers do not: the pod would wait for it
    until helm gives up, with nothing in any log."""
    own = authorities(pod())
    assert (own["secretName"], own["optional"]) == ("t", True)
    assert [one["key"] for one in own["items"]] == ["ca.crt"]
    named = authorities(pod("test.caSecret=c"))
    assert (named["secretName"], named["optional"]) == ("c", False)


def test_what_it_trusts_is_in_the_file_that_is_mounted() -> None:
    [container] = pod("test.serverName=recognise.example.com")["containers"]
    [ca] = [one for one in container["volumeMounts"] if one["name"] == "ca"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert variables["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] == f"{ca['mountPath']}/ca.crt"
    assert "--tls" in container["args"]
    assert "--tls-server-name=recognise.example.com" in container["args"]


def test_it_asks_a_service_with_tls(tmp_path: Path) -> None:
    """By the rendered arguments and variable: with the authority it is content, without it not."""
    ours = authority(tmp_path)
    pair = signed(tmp_path, "server", ours, extension="subjectAltName=DNS:recognise.example.com")
    store = f"file://{tmp_path / 'store'}"
    publish_bundle(ModelRepository(open_store(store)), MODEL, seed=1, golden=4, promote=True)
    [container] = pod("test.serverName=recognise.example.com")["containers"]
    flags = (f"--tls-certificate={pair.certificate}", f"--tls-key={pair.key}")
    with running_server(tmp_path / "server", store, *flags) as server:
        server.ready()

        def checked(roots: Path, *more: str) -> "subprocess.CompletedProcess[str]":
            [target] = [one for one in container["args"] if one.startswith("--target=")]
            arguments = [
                f"--target={server.target}" if one == target else one for one in container["args"]
            ]
            variables = {
                "VISIONLOOP_STORE": store,
                "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(roots),
            }
            return subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "visionloop.cli",
                    *container["command"][1:],
                    *arguments,
                    *more,
                ],
                env={**environment(), **variables},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

        answered = checked(ours.certificate)
        assert answered.returncode == 0, answered.stderr
        assert MODEL in answered.stdout
        refused = checked(tmp_path / "no such file", "--timeout=2")
        assert refused.returncode == 69, refused.stderr
