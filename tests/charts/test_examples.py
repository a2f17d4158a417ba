"""The examples that people copy: what they need is on the page that they come from."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from support.charts import CHARTS, TRIAL_PASSWORD, Object, objects_of, one_of, pods, run, template
from support.documented_commands import ROOT, commands

pytestmark = pytest.mark.usefixtures("helm_program")
PAGE = ROOT / "docs" / "install.md"
# Of CloudNativePG, and of cert-manager by the Certificates that are rendered.
MADE_BY_OTHERS = {"labels-app", "labels-ca"}
OPERATORS = ("monitoring.coreos.com", "cert-manager.io", "keda.sh", "gateway.networking.k8s.io")


@cache
def rendered(example: str) -> list[Object]:
    path = CHARTS / "visionloop" / "examples" / f"{example}.yaml"
    password = f"--set=trial.password={TRIAL_PASSWORD}"
    return objects_of(template("visionloop", f"--values={path}", password, release="vision"))


def mappings(item: Any) -> Iterator[Object]:
    if isinstance(item, dict):
        yield item
    for one in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
        yield from mappings(one)


def secrets(objects: list[Object]) -> set[str]:
    """All that pods and Ingresses read, but what may be missing."""
    found = set()
    for one in mappings(objects):
        if "secretKeyRef" in one and not one["secretKeyRef"].get("optional"):
            found.add(one["secretKeyRef"]["name"])
        if "secretName" in one and not one.get("optional"):
            found.add(one["secretName"])
    made = {one["spec"]["secretName"] for one in objects if one["kind"] == "Certificate"}
    return found - made


def shown() -> set[str]:
    """The Secrets that the page makes; a loop over programs is written out."""
    found = set()
    for command in commands("kubectl"):
        words = command.words
        if command.page == PAGE and "secret" in words and "create" in words:
            found.add(words[words.index("secret") + 2])
    return {
        name.replace("$program", program)
        for name in found
        for program in ("inference", "labeling", "training")
    }


@pytest.mark.parametrize("example", ["plain", "production"])
def test_the_page_makes_every_secret_that_the_example_names(example: str) -> None:
    assert secrets(rendered(example)) - MADE_BY_OTHERS - shown() == set()


def test_the_plain_one_needs_three_secrets_and_no_operator() -> None:
    objects = rendered("plain")
    assert secrets(objects) == {"visionloop-store", "visionloop-database", "visionloop-pages"}
    assert not [one for one in objects if one["apiVersion"].startswith(OPERATORS)]
    assert not any("persistentVolumeClaim" in one for one in mappings(objects))
    limits = json.dumps([spec for _, spec in pods(objects)])
    assert "nvidia" not in limits
    [ingress] = [one for one in objects if one["kind"] == "Ingress"]
    assert ingress["metadata"]["name"] == "vision-labeling-ingest"
    job = one_of(objects, "CronJob", "vision-training")["spec"]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", job["schedule"]), "every night"


def notes(example: str, *flags: str) -> str:
    path = CHARTS / "visionloop" / "examples" / f"{example}.yaml"
    said = run(
        *("install", "vision", str(CHARTS / "visionloop"), "--dry-run=client", "-n", "vision"),
        *(f"--values={path}", f"--set=trial.password={TRIAL_PASSWORD}", *flags),
    )
    return said.partition("\nNOTES:\n")[2]


@pytest.mark.parametrize("example", ["laptop", "plain", "production"])
def test_the_notes_name_what_is_there(example: str) -> None:
    said = notes(example)
    kinds = {"deploy": "Deployment", "cronjob": "CronJob"}
    named = re.findall(r"\b(deploy|cronjob)/(\S+)", said)
    assert {kind for kind, _ in named} == set(kinds)
    for kind, name in named:
        assert one_of(rendered(example), kinds[kind], name)


def test_the_notes_say_what_is_missing() -> None:
    assert "No backups are made" in notes("plain")
    assert "No backups" not in notes("production")
    assert "global.monitoring.runbookBase" in notes("production")
    published = "--set=global.monitoring.runbookBase=https://wiki/runbooks"
    assert "runbookBase" not in notes("production", published)


def test_a_backup_of_the_trial_can_be_rehearsed() -> None:
    path = CHARTS / "visionloop" / "examples" / "laptop.yaml"
    backup = {"enabled": True, "target": "s3://elsewhere/x", "storeSecret": "s"}
    flags = (
        f"--set=trial.password={TRIAL_PASSWORD}",
        f"--set-json=labeling-ingest.backup={json.dumps(backup)}",
    )
    objects = objects_of(template("visionloop", f"--values={path}", *flags))
    policy = one_of(objects, "NetworkPolicy", "visionloop-trial-postgres")["spec"]
    callers = [one["podSelector"]["matchLabels"] for one in policy["ingress"][0]["from"]]
    job = one_of(objects, "CronJob", "demo-labeling-ingest-backup")["spec"]["jobTemplate"]["spec"]
    labels = job["template"]["metadata"]["labels"].items()
    assert any(one.items() <= labels for one in callers)
    assert len(callers) == 2, "and the service"


def test_autoscalers_by_cpu_count_the_programs_own_container() -> None:
    """A sidecar that requests no CPU would leave the pod without a figure."""
    labelling = "--set=labeling-ingest.autoscaling.enabled=true"
    path = CHARTS / "visionloop" / "examples" / "plain.yaml"
    objects = objects_of(template("visionloop", f"--values={path}", labelling))
    scalers = [one["spec"] for one in objects if one["kind"] == "HorizontalPodAutoscaler"]
    assert len(scalers) == 2
    for scaler in scalers:
        deployment = one_of(objects, "Deployment", scaler["scaleTargetRef"]["name"])
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        [metric] = scaler["metrics"]
        assert metric["containerResource"]["container"] == container["name"]
        assert "cpu" in container["resources"]["requests"]
        assert "replicas" not in deployment["spec"]
