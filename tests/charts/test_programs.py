"""The rendered command lines, read by the programs' own parsers: charts set what there is."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.charts import (
    CHARTS,
    TRIAL_PASSWORD,
    VALUES,
    Object,
    ValueSet,
    every_value_set,
    objects_of,
    one_of,
    pod_of,
    pods,
    rendered,
    template,
    value_sets,
)

import visionloop_inference.settings
import visionloop_labeling.settings
from visionloop.cli.main import parser as cli_parser
from visionloop.telemetry import inference as _declares_metrics  # noqa: F401
from visionloop.telemetry import metrics
from visionloop_labeling import backup_command, migrate_command
from visionloop_training import flags as training_flags
from visionloop_training.config import load
from visionloop_training.stop import PreemptedError

pytestmark = pytest.mark.usefixtures("helm_program")
PARSERS = {
    "visionloop-inference": visionloop_inference.settings.parse,
    "visionloop-labeling": visionloop_labeling.settings.parse,
}
AUTOSCALER = "HorizontalPodAutoscaler"
SETS = {one.name: one for one in value_sets()}


def command(container: Object) -> list[str]:
    return [*container.get("command", ["what the image starts"]), *container.get("args", [])]


def environment(container: Object) -> dict[str, str]:
    """What the program sees; a secret's value is not known here, so it gets its key's name."""
    return {one["name"]: one.get("value", one["name"]) for one in container.get("env", [])}


def started(values: ValueSet, program: str) -> list[tuple[list[str], dict[str, str]]]:
    """Arguments and environment of each container that starts the program."""
    return [
        (command(one)[1:], environment(one))
        for _, spec in pods(rendered(values))
        for one in [*spec.get("initContainers", []), *spec["containers"]]
        if command(one)[0] == program
    ]


@every_value_set
def test_inference_understands_its_settings(values: ValueSet) -> None:
    for arguments, variables in started(values, "visionloop-inference"):
        settings = visionloop_inference.settings.parse(arguments, variables)
        assert settings.host == "0.0.0.0"  # noqa: S104 - what a pod must
        assert (settings.port, settings.http_port) == (8001, 8002)
        assert settings.store.startswith("s3://")
        assert settings.cache == Path("/var/cache/visionloop/models")


@every_value_set
def test_labeling_understands_its_settings(values: ValueSet) -> None:
    for arguments, variables in started(values, "visionloop-labeling"):
        if arguments[0] == "migrate":
            assert migrate_command.parser().parse_args(arguments[1:])
            assert variables == {"VISIONLOOP_DATABASE": "VISIONLOOP_DATABASE"} | variables
            continue
        if arguments[0] == "backup":
            assert backup_command.parser().parse_args(arguments[1:])
            assert variables["VISIONLOOP_BACKUP_TARGET"].startswith("s3://")
            continue
        settings = visionloop_labeling.settings.parse(arguments, variables)
        assert settings.host == "0.0.0.0"  # noqa: S104 - what a pod must
        assert (settings.http_port, settings.grpc_port) == (8080, 8081)
        assert settings.store.startswith("s3://")
        assert settings.database == "VISIONLOOP_DATABASE", "the address holds a password"


def training_job(objects: Sequence[Object]) -> Object:
    [found] = [
        one
        for one in objects
        if one["kind"] == "CronJob" and one["metadata"]["name"].endswith("-training")
    ]
    return found


@every_value_set
def test_training_understands_its_flags(
    values: ValueSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on the last of the nodes; its configuration is read from the rendered ConfigMap."""
    objects = rendered(values)
    for arguments, variables in started(values, "visionloop-train"):
        job = training_job(objects)["spec"]["jobTemplate"]["spec"]
        nodes = job["completions"]
        assert job["parallelism"] == nodes
        for name, value in {**variables, "JOB_COMPLETION_INDEX": str(nodes - 1)}.items():
            monkeypatch.setenv(name, value)
        flags = training_flags.parser().parse_args(arguments)
        place = training_flags.place(flags)
        place.check()
        assert (place.nodes, place.node_rank) == (nodes, nodes - 1)
        service = job["template"]["spec"]["subdomain"]
        assert place.master_addr == f"$(JOB_NAME)-0.{service}"
        assert one_of(objects, "Service", service)["spec"]["publishNotReadyAddresses"]
        config = None
        if flags.config:
            mounted = {one["name"]: one for one in job["template"]["spec"]["volumes"]}
            name = mounted["config"]["configMap"]["name"]
            [text] = one_of(objects, "ConfigMap", name)["data"].values()
            config = tmp_path / "config.yaml"
            config.write_text(text, encoding="utf-8")
        settings = load(flags.preset, config)
        assert settings.fit.slices % (place.nodes * place.processes) == 0


@every_value_set
def test_what_would_end_the_same_way_is_not_tried_again(values: ValueSet) -> None:
    codes = {"Ignore": {PreemptedError.exit_code}, "FailJob": {64, 65, 66, 77}}
    for one in rendered(values):
        if one["kind"] != "CronJob" or not one["metadata"]["name"].endswith("-training"):
            continue
        job = one["spec"]["jobTemplate"]["spec"]
        assert job["template"]["spec"]["restartPolicy"] == "Never"
        names = {container["name"] for container in job["template"]["spec"]["containers"]}
        for rule in job["podFailurePolicy"]["rules"]:
            if "onExitCodes" in rule:
                assert rule["onExitCodes"]["containerName"] in names
                assert set(rule["onExitCodes"]["values"]) == codes.pop(rule["action"])
        assert codes == {}


@every_value_set
def test_a_pod_has_the_time_that_its_program_takes_to_drain(values: ValueSet) -> None:
    for _, spec in pods(rendered(values)):
        for container in spec["containers"]:
            parse = PARSERS.get(command(container)[0])
            if parse is None or command(container)[1] == "backup":
                continue
            settings = parse(command(container)[1:], environment(container))
            sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
            needed = settings.drain_seconds + sleep.get("seconds", 0)
            assert spec["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize("chart", ["inference", "labeling-ingest"])
def test_half_a_second_of_draining_counts(chart: str) -> None:
    drain = "--set-json=settings.drain-seconds=12.5"
    text = template(chart, f"--values={VALUES / chart / 'minimal.yaml'}", drain)
    spec = pod_of(one_of(objects_of(text), "Deployment"))
    assert spec is not None
    assert spec["terminationGracePeriodSeconds"] == 5 + 13 + 10


@every_value_set
def test_the_command_line_knows_the_test_hooks(values: ValueSet) -> None:
    for arguments, _ in started(values, "visionloop"):
        options = cli_parser().parse_args(arguments)
        assert options.module == "model_check"


@pytest.mark.parametrize("example", ["laptop", "production"])
def test_where_pods_have_ipv6_addresses_programs_listen_on_those(example: str) -> None:
    path = CHARTS / "visionloop" / "examples" / f"{example}.yaml"
    flags = ["--set=global.ipv6=true", f"--set=trial.password={TRIAL_PASSWORD}"]
    text = template("visionloop", f"--values={path}", *flags)
    heard = {}
    for _, spec in pods(objects_of(text)):
        for container in spec["containers"]:
            program, *arguments = command(container)
            if program in PARSERS and arguments[0] != "backup":
                heard[program] = PARSERS[program](arguments, environment(container)).host
            if program == "visionloop-train":
                heard[program] = training_flags.parser().parse_args(arguments).metrics_host
    assert heard == dict.fromkeys((*PARSERS, "visionloop-train"), "::")
    assert "0.0.0.0" not in text.replace("0.0.0.0/0", "")  # noqa: S104


def test_settings_reach_the_program() -> None:
    [(arguments, variables)] = started(SETS["inference-production"], "visionloop-inference")
    settings = visionloop_inference.settings.parse(arguments, variables)
    assert settings.models == ("cells", "panels")
    assert (settings.max_batch, settings.access_log) == (64, 0.01)
    assert (settings.drain_seconds, settings.queue_bytes) == (40.0, 2**30)
    assert settings.max_connection_age_seconds == 300
    assert settings.provider == "cuda"
    assert settings.tls
    assert settings.tokens == Path("/etc/visionloop/auth/tokens.yaml")
    assert not settings.insecure
    assert variables["AWS_ENDPOINT_URL_S3"] == "https://s3.example.com:9000"
    assert variables["AWS_CA_BUNDLE"] == "/etc/visionloop/store-ca/ca.crt"


def test_labeling_settings_reach_the_program() -> None:
    [(arguments, variables)] = [
        one
        for one in started(SETS["labeling-ingest-production"], "visionloop-labeling")
        if one[0][0] not in ("migrate", "backup")
    ]
    settings = visionloop_labeling.settings.parse(arguments, variables)
    assert settings.accounts
    assert settings.tls
    assert settings.inference == "demo-inference:8001"
    assert settings.inference_token_file == Path("/etc/visionloop/inference-token/token")
    assert settings.import_from == ("s3://photos/2026",)
    assert settings.import_networks == ("10.1.0.0/16",)
    assert settings.import_ports == ("443",)
    assert (settings.inspectors, settings.daily_images) == (5, 100000)
    assert variables["PGSSLMODE"] == "verify-full"


def test_autoscalers_ask_for_a_metric_that_the_program_has() -> None:
    there = {one.name for one in metrics.declared() if one.program == "inference"}
    for name in ("inference-mtls-hpa", "inference-production"):
        scalers = json.dumps(
            [one for one in rendered(SETS[name]) if one["kind"] in ("ScaledObject", AUTOSCALER)]
        )
        asked = set(re.findall(r"visionloop_[a-z_]+", scalers))
        assert asked
        assert asked <= there


def test_each_program_has_a_secret_of_its_own() -> None:
    for _, spec in pods(rendered(SETS["inference-production"])):
        for variable in spec["containers"][0]["env"]:
            if variable["name"].startswith("AWS_") and "valueFrom" in variable:
                assert variable["valueFrom"]["secretKeyRef"]["name"] == "inference-store"
