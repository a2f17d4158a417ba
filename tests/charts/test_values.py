"""Values: what is made from them is current, and what cannot work is refused in words."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.charts import CHARTS as FOLDER
from support.charts import RELEASE, RefusedError, objects_of, one_of, template

from charts.tooling.charts import CHARTS, generated
from charts.tooling.values import read_values

pytestmark = pytest.mark.usefixtures("helm_program")
DATABASE = "--set=database.existingSecret=d"
OPEN = [
    "--set=inference.insecure=true,labeling-ingest.insecure=true",
    "--set=labeling-ingest.database.existingSecret=d",
]
STORE = "--set=global.store.url=s3://models/p"
SECURED = [
    "--set=inference.tls.mode=secret,inference.tls.existingSecret=t",
    "--set=inference.auth.existingSecret=a",
]


@pytest.mark.parametrize("chart", CHARTS)
def test_schemas_and_tables_are_current(chart: str) -> None:
    for path, text in generated(chart).items():
        assert path.read_text(encoding="utf-8") == text, f"run python -m charts.tooling ({path})"


@pytest.mark.parametrize("chart", CHARTS)
def test_every_value_that_is_no_everyday_word_is_described(chart: str) -> None:
    plain = {
        "registry", "repository", "pullPolicy", "tag", "enabled", "create", "name", "kind", "group",
        "annotations", "labels", "hostnames", "hosts", "className", "nodeSelector", "tolerations",
        "affinity", "priorityClassName", "podLabels", "podAnnotations", "extraVolumes",
        "extraVolumeMounts", "count", "min", "max", "type", "interval", "image", "parentRefs",
    }  # fmt: skip
    for top in read_values(FOLDER / chart / "values.yaml"):
        for value in top.walk():
            if not value.children and value.name not in plain:
                assert value.description, value.path


REFUSED = [
    ("inference", [], 'global.store.url is ""'),
    ("inference", [STORE], "tls.mode is off: requests would come in the clear"),
    ("inference", [STORE, "--set=tls.mode=secret,tls.existingSecret=t"], "may use it"),
    ("inference", [STORE, "--set=tls.mode=secret,insecure=true"], "tls.existingSecret names none"),
    ("inference", [STORE, "--set=tls.mode=cert-manager,insecure=true"], "names no issuer"),
    ("inference", [STORE, "--set=tls.clientCaSecret=c,insecure=true"], "over TLS only"),
    ("inference", [STORE, "--set=insecure=true,tls.gatewayCaConfigMap=c"], "no certificate to"),
    ("inference", [STORE, "--set=insecure=true,autoscaling.mode=keda"], "gives no address"),
    ("inference", [STORE, "--set=insecure=true,autoscaling.mode=hpa"], "needs the pods' metrics"),
    (
        "inference",
        [STORE, "--set=insecure=true,autoscaling.mode=cpu,gpu.mode=device-plugin"],
        "says nothing of a GPU's",
    ),
    (
        "inference",
        [
            STORE,
            "--set=insecure=true,autoscaling.mode=cpu",
            "--set-json=resources.requests.cpu=null",
        ],
        "measures against resources.requests.cpu",
    ),
    (
        "inference",
        [STORE, "--set=insecure=true,autoscaling.mode=hpa,autoscaling.min=9,autoscaling.max=3"],
        "autoscaling.min 9 is above autoscaling.max 3",
    ),
    (
        "inference",
        [STORE, "--set=insecure=true,global.monitoring.enabled=true"],
        "say where Prometheus is: networkPolicy.metricsFrom",
    ),
    ("inference", [STORE, "--set=insecure=true,grpcRoute.enabled=true"], "names no Gateway"),
    ("inference", [STORE, "--set=insecure=true,ingress.enabled=true"], "names no host"),
    ("inference", [STORE, "--set=insecure=true,httpRoute.enabled=true"], "names no Gateway"),
    (
        "inference",
        [STORE, "--set=insecure=true,service.type=LoadBalancer", "--set=httpRoute.enabled=true"],
        "a Service of type LoadBalancer does not open",
    ),
    (
        "inference",
        [STORE, "--set=insecure=true,httpRoute.enabled=true,httpRoute.parentRefs[0].name=public"],
        "would be open to every namespace",
    ),
    (
        "labeling-ingest",
        [STORE, DATABASE, "--set=insecure=true", '--set-json=database.policyFrom=[{"x":{}}]'],
        "without database.policyFor",
    ),
    (
        "labeling-ingest",
        [STORE, DATABASE, "--set=insecure=true,networkPolicy.enabled=false"]
        + ["--set=database.policyFor.app=postgres"],
        "networkPolicy.enabled is false",
    ),
    ("labeling-ingest", [STORE, "--set=insecure=true"], "database.existingSecret names no"),
    ("labeling-ingest", [STORE, DATABASE], "passwords would come in the clear"),
    (
        "labeling-ingest",
        [STORE, DATABASE, "--set=accounts=false,tls.mode=secret,tls.existingSecret=t"],
        "is its administrator",
    ),
    (
        "labeling-ingest",
        [STORE, DATABASE, "--set=insecure=true,inference.tokenSecret=t"],
        "in the clear",
    ),
    (
        "labeling-ingest",
        [STORE, DATABASE, "--set=insecure=true,replicas=4"],
        "take 120 connections (24 each), and database.maxConnections is 100",
    ),
    (
        "labeling-ingest",
        [STORE, DATABASE, "--set=insecure=true,imports.networks={10.0.0.0/8}"],
        "without imports.urls=true",
    ),
    (
        "labeling-ingest",
        [STORE, DATABASE, "--set=insecure=true,autoscaling.enabled=true,autoscaling.min=5"],
        "autoscaling.min 5 is above",
    ),
    ("training", [STORE], "dataset names none"),
    ("training", [STORE, "--set=dataset=d,lane=auto"], "set onlyIfNeeded=true"),
    ("training", [STORE, "--set=dataset=d,again=true,onlyIfNeeded=true"], "choose one of them"),
    ("training", [STORE, "--set=dataset=d,nodes=3"], "must be a power of two"),
    ("training", [STORE, "--set=dataset=d,nodes=2"], "make it 2 or a multiple"),
    (
        "training",
        [STORE, "--set=dataset=d,gpu.mode=device-plugin,gpu.count=4,config.fit.slices=6"],
        "make it 4 or a multiple",
    ),
    ("training", [STORE, "--set=dataset=d,fullnameOverride=" + "t" * 41], "fullnameOverride"),
    ("training", [STORE, "--set=dataset=d,config.fit.epoch=3"], "epoch"),
    ("training", [STORE, "--set=dataset=d,config.gate.policy=better"], "policy"),
    ("visionloop", [STORE, *OPEN, "--set=inference.enabled=false"], "inference.enabled is false"),
    ("visionloop", [STORE, *OPEN, "--set=inference.fullnameOverride=x"], "set it to x:8001"),
    ("visionloop", [STORE, *OPEN, *SECURED], "asks it in the clear"),
    ("visionloop", [STORE, *OPEN, *SECURED], "labeling-ingest has none; name its Secret"),
    (
        "visionloop",
        [STORE, *OPEN, *SECURED, "--set=inference.tls.clientCaSecret=c"],
        "wants certificates of all clients",
    ),
    ("visionloop", [STORE, *OPEN, "--set=trial.enabled=true"], "fewer than 12 characters"),
    (
        "visionloop",
        [STORE, *OPEN, "--set=trial.enabled=true,trial.password=a/b/c/d/e/f/g"],
        "address",
    ),
    ("visionloop", [STORE, *OPEN, "--set=inference.replica=3"], "replica"),
    ("visionloop", [STORE, *OPEN, "--set=labelling-ingest.replicas=3"], "labelling-ingest"),
    # The schema's part: a name or a value that is none.
    (
        "inference",
        [STORE, "--set=insecure=true,storeSecret=s,toolbox.enabled=true,toolbox.storeSecret=s"],
        "cannot move aliases",
    ),
    ("inference", [STORE, "--set=replica=3"], "replica"),
    ("inference", [STORE, "--set=global.monitoring.runbookBase=docs/runbooks"], "runbookBase"),
    ("inference", [STORE, "--set=gpu.mode=mig"], "gpu/mode"),
    ("inference", [STORE, "--set=podDisruptionBudget.maxUnavailable=0"], "maxUnavailable"),
    ("inference", [STORE, "--set=settings.max-bach=3"], "max-bach"),
    ("inference", [STORE, "--set=settings.host=1.2.3.4"], "host"),
    ("inference", [STORE, "--set=settings.max-batch=many"], "max-batch"),
    ("inference", [STORE, "--set=image.digest=abc"], "digest"),
    ("inference", [STORE, "--set=models={Dogs!}"], "models"),
    ("inference", [STORE, "--set=global.store.bucket=x"], "bucket"),
    ("inference", [STORE, r"--set=global.labels.helm\.sh/chart=x"], "invalid propertyName"),
    ("inference", [STORE, r"--set=podLabels.app\.kubernetes\.io/name=x"], "invalid propertyName"),
]


@pytest.mark.parametrize(("chart", "flags", "words"), REFUSED)
def test_what_cannot_work_is_refused(chart: str, flags: list[str], words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        template(chart, *flags)
    assert words in str(refused.value)


def test_dra_needs_kubernetes_1_34() -> None:
    flags = [STORE, "--set=insecure=true,gpu.mode=dra"]
    template("inference", *flags, kubernetes="1.34")
    with pytest.raises(RefusedError, match=r"needs Kubernetes 1\.34"):
        template("inference", *flags, kubernetes="1.33")


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(RefusedError) as refused:
        template("inference", "--set=ingress.enabled=true,tls.clientCaSecret=c")
    assert str(refused.value).count("\n- ") == 4


def test_a_long_release_name_is_refused_not_cut() -> None:
    with pytest.raises(RefusedError, match="52 fit"):
        template("inference", STORE, "--set=insecure=true", release="r" * 50)


def test_an_autoscaler_of_ones_own_is_the_only_one() -> None:
    flags = [STORE, "--set=insecure=true,autoscaling.mode=external", "--set=replicas=5"]
    objects = objects_of(template("inference", *flags))
    assert "replicas" not in one_of(objects, "Deployment")["spec"]
    assert not {"HorizontalPodAutoscaler", "ScaledObject"} & {one["kind"] for one in objects}


def test_the_services_own_name_may_be_spelled_out() -> None:
    named = f"--set=inference.fullnameOverride={RELEASE}-inference"
    assert template("visionloop", STORE, *OPEN, named)


def test_without_suggestions_the_programs_need_not_fit() -> None:
    none = "--set=labeling-ingest.inference.address="
    assert template("visionloop", STORE, *OPEN, *SECURED, none)


@pytest.mark.parametrize(
    ("chart", "given"),
    [
        (
            "training",
            {
                "dataset": "d",
                "activeDeadlineSeconds": 1_209_600,
                "startingDeadlineSeconds": 1_209_600,
                "ttlSecondsAfterFinished": 2_592_000,
                "checkpointSeconds": 1_209_600,
            },
        ),
        (
            "labeling-ingest",
            {
                "insecure": True,
                "database": {"existingSecret": "d"},
                "backup": {
                    "enabled": True,
                    "target": "s3://b/p",
                    "serviceAccountName": "backup",
                    "activeDeadlineSeconds": 1_209_600,
                    "keep": 1_209_600,
                },
            },
        ),
    ],
)
def test_large_numbers_of_a_values_file_are_written_out(
    chart: str, given: dict[str, Any], tmp_path: Path
) -> None:
    """Two weeks are 1.2096e+06 to Helm, which a program's flag is not."""
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    text = template(chart, STORE, f"--values={path}")
    assert "1209600" in text
    assert "e+" not in text
