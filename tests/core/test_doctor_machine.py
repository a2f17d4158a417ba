"""Disk, ports, and whether driver, CUDA and libraries fit."""

import http.server
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import authority
from support.stores import free_ports

from visionloop.doctor.accelerators import check_onnxruntime, cuda_finding
from visionloop.doctor.findings import Finding, Findings, Status
from visionloop.doctor.machine import check_folder, check_ports

EXABYTE = 2**60


class TestFolder:
    def test_room(self, tmp_path: Path) -> None:
        found = check_folder("cache", tmp_path / "not" / "there" / "yet", 1, "--cache")
        assert found.status is not Status.FAILED
        assert "free in" in found.said
        assert list(tmp_path.iterdir()) == []

    def test_too_little_room(self, tmp_path: Path) -> None:
        found = check_folder("cache", tmp_path, EXABYTE, "--cache")
        assert (found.status, found.exit_code) == (Status.FAILED, 64)
        assert found.said.endswith("are needed; make room or choose another --cache")

    def test_a_folder_that_nobody_can_write(self) -> None:
        found = check_folder("cache", Path("/proc/here"), 0, "--cache")
        assert found.status is Status.FAILED
        assert "/proc cannot be written" in found.said

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        found = check_folder("cache", tmp_path / "file" / "cache", 0, "--cache")
        assert "is no folder" in found.said


class Health(http.server.BaseHTTPRequestHandler):
    """Answers /healthz as our services do."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(params=["plain", "TLS"])
def service_port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        if request.param == "TLS":
            pair = authority(tmp_path)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.certificate, pair.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ports(host: str, *, port: int, health: int) -> list[Finding]:
    findings = Findings()
    with findings.checking("ports"):
        check_ports(findings, host, {"port": port, "http-port": health}, health=health)
    return list(findings)


class TestPorts:
    def test_free(self) -> None:
        first, second = free_ports(2)
        [found] = ports("127.0.0.1", port=first, health=second)
        assert found.status is Status.OK

    def test_another_program_is_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            [found] = ports("127.0.0.1", port=port, health=free_ports(1)[0])
        assert found.status is Status.FAILED
        assert f"127.0.0.1:{port}; stop it, or choose another --port" in found.said

    def test_the_service_runs_already(self, service_port: int) -> None:
        [found] = ports("127.0.0.1", port=free_ports(1)[0], health=service_port)
        assert found.status is Status.OK
        assert "running already" in found.said

    def test_it_is_not_looked_for_behind_a_proxy(
        self, service_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(urllib.request, "_opener", None)  # made of an earlier environment
        for name in ("no_proxy", "NO_PROXY", "REQUEST_METHOD"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_ports(1)[0]}")
        [found] = ports("127.0.0.1", port=free_ports(1)[0], health=service_port)
        assert found.said == "taken by this service, which is running already"

    def test_an_address_of_another_machine(self) -> None:
        [found] = ports("192.0.2.1", port=8001, health=8002)
        assert found.status is Status.FAILED
        assert "choose an address of this machine by --host" in found.said


class TestAccelerators:
    def test_one_onnxruntime(self) -> None:
        assert check_onnxruntime().status is Status.OK

    def test_two_overwrite_one_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
        other.mkdir()
        (other / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        found = check_onnxruntime()
        assert (found.status, found.exit_code) == (Status.FAILED, 64)
        assert found.said.startswith("onnxruntime and onnxruntime-gpu are both installed")

    @pytest.mark.parametrize(
        ("built_for", "driver", "wanted", "status", "said"),
        [
            ("13.0", (13, 0), True, Status.OK, "built for 13.0"),
            ("12.8", (13, 0), True, Status.OK, "built for 12.8"),
            ("12.8", (12, 2), True, Status.OK, "CUDA up to 12.2"),  # minor versions fit
            ("13.0", (12, 8), True, Status.FAILED, "install driver 580.65.06 or newer"),
            ("13.0", (12, 8), False, Status.WARNING, "install driver 580.65.06 or newer"),
            ("99.0", (13, 0), True, Status.FAILED, "install a newer driver"),
            ("13.0", None, True, Status.FAILED, "no NVIDIA driver"),
            ("13.0", None, False, Status.OK, "none is asked for"),
            ("", None, False, Status.OK, "none is asked for"),
            ("", (13, 0), True, Status.FAILED, "built for the CPU"),
            ("", (13, 0), False, Status.WARNING, "install its GPU build"),
        ],
    )
    def test_driver_and_library(
        self,
        built_for: str,
        driver: tuple[int, int] | None,
        wanted: bool,
        status: Status,
        said: str,
    ) -> None:
        found = cuda_finding("onnxruntime", built_for, driver, wanted=wanted)
        assert found.status is status
        assert said in found.said
