"""Every value set on every Kubernetes: rendered by real helm, judged by Kubernetes' own schemas."""

import json
from functools import cache
from pathlib import Path

import pytest
from support import kubernetes_schemas
from support.charts import (
    CHARTS,
    KUBERNETES,
    TRIAL_PASSWORD,
    RefusedError,
    ValueSet,
    every_value_set,
    objects_of,
    rendered,
    rendered_text,
    run,
    template,
    value_sets,
)
from support.helm import ToolMissingError

pytestmark = pytest.mark.usefixtures("helm_program")


@cache
def errors_of(text: str, kubernetes: str) -> list[str]:
    """Of one object (JSON); many value sets render the same Service."""
    return kubernetes_schemas.errors(json.loads(text), kubernetes)


@pytest.fixture(scope="module")
def kubernetes_wheel() -> None:
    try:
        kubernetes_schemas._wheel()
    except ToolMissingError as error:
        pytest.skip(f"no schemas of Kubernetes: {error}")


def supported(values: ValueSet) -> list[str]:
    return [one for one in KUBERNETES if float(one[2:]) >= float(values.least[2:])]


@pytest.mark.usefixtures("kubernetes_wheel")
@every_value_set
def test_objects_are_valid_on_every_kubernetes(values: ValueSet) -> None:
    objects = rendered(values)
    assert objects
    found = {
        f"{kubernetes} {one['kind']}/{one['metadata']['name']}": errors
        for kubernetes in supported(values)
        for one in objects
        if (errors := errors_of(json.dumps(one, sort_keys=True), kubernetes))
    }
    assert found == {}


@every_value_set
def test_the_render_does_not_depend_on_the_kubernetes_version(values: ValueSet) -> None:
    """So that one render stands for all: GitOps tools render without asking the cluster."""
    assert rendered_text(values, supported(values)[0]) == rendered_text(values)


@pytest.mark.usefixtures("kubernetes_wheel")
def test_unknown_kinds_and_misplaced_fields_are_found() -> None:
    assert kubernetes_schemas.errors({"apiVersion": "batch/v1beta1", "kind": "CronJob"}, "1.37")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "x"},
        "spec": {"prots": []},
    }
    [said] = kubernetes_schemas.errors(service, "1.30")
    assert "prots" in said


@pytest.mark.parametrize("chart", sorted({values.chart for values in value_sets()}))
def test_lint(chart: str) -> None:
    values = next(values for values in value_sets() if values.chart == chart)
    said = run("lint", "--strict", str(CHARTS / chart), *values.flags)
    assert "[WARNING]" not in said
    assert "[ERROR]" not in said


@pytest.mark.parametrize("chart", sorted({values.chart for values in value_sets()}))
def test_the_package_renders_the_same(chart: str, tmp_path: Path) -> None:
    run("package", str(CHARTS / chart), f"--destination={tmp_path}")
    [package] = tmp_path.glob("*.tgz")
    for values in (values for values in value_sets() if values.chart == chart):
        packaged = template(package, *values.flags)
        assert objects_of(packaged) == list(rendered(values))


@pytest.mark.parametrize("chart", sorted({values.chart for values in value_sets()}))
def test_older_kubernetes_is_refused(chart: str) -> None:
    values = next(values for values in value_sets() if values.chart == chart)
    with pytest.raises(RefusedError, match="incompatible with Kubernetes"):
        template(chart, *values.flags, kubernetes="1.29")


@every_value_set
def test_names_are_unique_and_labels_complete(values: ValueSet) -> None:
    objects = rendered(values)
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))
    for one in objects:
        if one["metadata"]["name"].endswith("-extra"):
            continue  # the user's own
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "demo"
        assert labels["app.kubernetes.io/part-of"] == "visionloop"


@pytest.mark.parametrize("example", ["laptop", "production"])
def test_labels_of_ones_own_are_on_all_objects_and_pods(example: str) -> None:
    """As a policy wants them that refuses what has none; in no selector, for that cannot change."""
    path = CHARTS / "visionloop" / "examples" / f"{example}.yaml"
    flags = [f"--values={path}", f"--set=trial.password={TRIAL_PASSWORD}"]
    # The release's own labels for Prometheus may have the same name.
    text = template("visionloop", *flags, "--set=global.labels.release=paid,global.labels.a=b")
    for item in objects_of(text):
        spec = item.get("spec", {})
        job = spec.get("jobTemplate", {}).get("spec", {})
        holders = [item, *(one["template"] for one in (spec, job) if "template" in one)]
        for holder in holders:
            labels = holder["metadata"]["labels"]
            assert labels["a"] == "b", item["kind"]
            assert labels["release"] in ("paid", "kube-prometheus-stack")
        selector = spec.get("selector", {})
        assert "a" not in selector.get("matchLabels", selector)


def test_templates_never_ask_the_cluster() -> None:
    """A chart that asks which kinds there are renders less, in silence, where nobody can answer."""
    for path in CHARTS.glob("*/templates/**/*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert "Capabilities.APIVersions" not in text, path
            assert "lookup " not in text, path
