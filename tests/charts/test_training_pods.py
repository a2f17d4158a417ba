"""The training chart's two pods, started by the command line and the environment that it renders.

Everything is as rendered but what a cluster gives: the name of pod 0 (an address of loopback), the
Secret's keys, and the mounted folders. Real S3, real training on digits; pod 1 is killed, the Job's
policy asks for both again, and they go on from the checkpoint.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.charts import Object, objects_of, one_of, template
from support.digits import write_digits
from support.stores import ACCESS_KEY, SECRET_KEY, S3Server

from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

CONFIG = {
    "backbone": {"name": "squeezenet1_1", "weights": "none"},
    "pixels": {"image_size": 64, "shape": "squash"},
    "fit": {"epochs": 4, "freeze": 0.5, "batch_size": 8, "slices": 2},
    "gate": {"policy": "not-significantly-worse"},
    "threads": 1,
}
# Four times torch's start and two trainings: `make charts-verify` and CI have the time.
WANTED = "1" in (os.environ.get("CHARTS_PODS"), os.environ.get("REQUIRE_ALL"))
SECRET = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Pods:
    """The pods of one Job, as processes. `folder` holds what a cluster would mount."""

    def __init__(self, objects: list[Object], folder: Path) -> None:
        job = one_of(objects, "CronJob")["spec"]["jobTemplate"]["spec"]
        [container] = job["template"]["spec"]["containers"]
        self.policy = job["podFailurePolicy"]["rules"]
        self.pods = job["completions"]
        self._container = container
        self._folder = folder
        self._master_port = free_port()
        config = folder / "config"
        config.mkdir(exist_ok=True)
        for name, text in one_of(objects, "ConfigMap")["data"].items():
            (config / name).write_text(text, encoding="utf-8")

    def start(self) -> "list[subprocess.Popen[str]]":
        return [self._pod(index) for index in range(self.pods)]

    def _pod(self, index: int) -> "subprocess.Popen[str]":
        assert self._container["command"] == ["visionloop-train"]
        own = self._folder / f"pod-{index}"
        given = {
            "/var/cache/visionloop": str(own / "cache"),
            "/etc/visionloop/training": str(self._folder / "config"),
            "--metrics-port=8004": f"--metrics-port={free_port()}",
            "--metrics-host=0.0.0.0": "--metrics-host=127.0.0.1",
            "--checkpoint-seconds=10": "--checkpoint-seconds=0.001",
        }
        arguments = self._container["args"]
        for rendered, here in given.items():
            assert any(rendered in argument for argument in arguments), rendered
            arguments = [argument.replace(rendered, here) for argument in arguments]
        return subprocess.Popen(
            [sys.executable, "-m", "visionloop_training", *arguments],
            env=self._environment(index, own),
            stderr=subprocess.PIPE,
            text=True,
        )

    def _environment(self, index: int, own: Path) -> dict[str, str]:
        own.mkdir(exist_ok=True)
        base = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment = {**base, "JOB_COMPLETION_INDEX": str(index), "OMP_NUM_THREADS": "1"}
        for one in self._container["env"]:
            if "value" in one:
                environment[one["name"]] = one["value"]
            elif "secretKeyRef" in one["valueFrom"]:
                environment[one["name"]] = SECRET[one["valueFrom"]["secretKeyRef"]["key"]]
        assert environment["MASTER_ADDR"] == "$(JOB_NAME)-0.demo-training"
        return {
            **environment,
            "MASTER_ADDR": "127.0.0.2",
            "MASTER_PORT": self._master_port,
            "HOME": str(own),
        }


@pytest.mark.skipif(not WANTED, reason="takes a minute; `make charts-verify` and CI run it")
@pytest.mark.s3
@pytest.mark.usefixtures("helm_program")
def test_two_pods_of_which_one_is_killed_go_on_and_publish(
    s3_server: S3Server, s3_url: str, tmp_path: Path
) -> None:
    store = open_store(s3_url)
    write_digits(store, "digits", {"0": 40, "1": 40})
    flags = [
        f"--set=global.store.url={s3_url},global.store.endpoint={s3_server.endpoint}",
        "--set=global.store.region=us-east-1,global.store.existingSecret=keys",
        "--set=dataset=digits,model=reader,nodes=2,checkpointSeconds=10",
        f"--set-json=config={json.dumps(CONFIG)}",
    ]
    pods = Pods(objects_of(template("training", *flags)), tmp_path)

    leading, other = pods.start()
    said = ""
    for line in leading.stderr or ():
        said += line
        if "checkpoint of step" in line:
            break
    other.send_signal(signal.SIGKILL)
    said += leading.communicate(timeout=180)[1]
    other.communicate(timeout=60)
    ended = {
        code
        for rule in pods.policy
        if rule["action"] == "FailJob"
        for code in rule["onExitCodes"]["values"]
    }
    assert leading.returncode != 0, said
    assert leading.returncode not in ended, "the Job would not try again"
    assert ModelRepository(store).versions("reader") == []

    again = pods.start()
    told = [pod.communicate(timeout=300)[1] for pod in again]
    assert [pod.returncode for pod in again] == [0, 0], told
    assert "going on from the checkpoint of step" in told[0]
    repository = ModelRepository(store)
    assert repository.versions("reader") == [1]
    assert repository.aliases("reader").aliases.stable == 1
    [move] = repository.history("reader")
    assert move.who == "vision/demo-training"
