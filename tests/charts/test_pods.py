"""What every pod of the suite is: restricted, mountable, and started as the program understands."""

import json

import pytest
from support.charts import (
    CHARTS,
    VALUES,
    Object,
    ValueSet,
    containers,
    every_value_set,
    objects_of,
    one_of,
    pod_of,
    pods,
    rendered,
    template,
)
from support.pod_security import violations

pytestmark = pytest.mark.usefixtures("helm_program")


@every_value_set
def test_pods_are_restricted(values: ValueSet) -> None:
    found = {name: violations(spec) for name, spec in pods(rendered(values))}
    assert {name: said for name, said in found.items() if said} == {}


def test_the_audit_finds_what_it_looks_for() -> None:
    [[_, spec]] = [pod for pod in pods(rendered_minimal()) if pod[0] == "Deployment/demo-inference"]
    assert violations(spec) == []
    container = spec["containers"][0]
    assert violations({**spec, "hostNetwork": True}) == ["hostNetwork is on"]
    assert violations({**spec, "volumes": [{"name": "x", "hostPath": {"path": "/"}}]})
    rooted = {**container, "securityContext": {**container["securityContext"], "runAsUser": 0}}
    assert violations({**spec, "containers": [rooted]}) == ["inference: runs as root"]
    bare = {key: value for key, value in container.items() if key != "securityContext"}
    assert len(violations({**spec, "containers": [bare]})) == 3
    clear = {**container, "env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]}
    assert violations({**spec, "containers": [clear]}) == [
        "inference: AWS_SECRET_ACCESS_KEY stands in the clear"
    ]


def rendered_minimal() -> tuple[Object, ...]:
    from support.charts import value_sets

    return rendered(next(one for one in value_sets() if one.name == "inference-minimal"))


@every_value_set
def test_what_is_mounted_is_there(values: ValueSet) -> None:
    for name, spec in pods(rendered(values)):
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        mounted = [m for one in containers(spec) for m in one.get("volumeMounts", [])]
        assert {mount["name"] for mount in mounted} == volumes, name
        for one in containers(spec):
            paths = [mount["mountPath"] for mount in one.get("volumeMounts", [])]
            assert len(paths) == len(set(paths)), name


@every_value_set
def test_images_go_through_the_one_registry(values: ValueSet) -> None:
    import yaml

    given = yaml.safe_load(values.path.read_text(encoding="utf-8"))
    registry = given["global"].get("imageRegistry", "")
    for name, spec in pods(rendered(values)):
        for one in containers(spec):
            assert one["image"].startswith(registry), name
            assert not one["image"].endswith(":latest"), name


@every_value_set
def test_services_find_pods_and_ports(values: ValueSet) -> None:
    objects = rendered(values)
    for service in (one for one in objects if one["kind"] == "Service"):
        selector = service["spec"]["selector"].items()
        found = [
            template
            for one in objects
            if (template := _template(one)) and selector <= template["metadata"]["labels"].items()
        ]
        assert len(found) == 1, service["metadata"]["name"]
        ports = {port["name"] for one in found[0]["spec"]["containers"] for port in one["ports"]}
        wanted = {port["targetPort"] for port in service["spec"].get("ports", [])}
        assert wanted <= ports


def _template(item: Object) -> Object | None:
    """The pods that an object makes, with their labels."""
    match item["kind"]:
        case "Deployment" | "StatefulSet":
            template: Object = item["spec"]["template"]
        case "CronJob":
            template = item["spec"]["jobTemplate"]["spec"]["template"]
        case "Pod":
            template = item
        case _:
            return None
    return template


@every_value_set
def test_drains_and_rollouts_are_never_blocked(values: ValueSet) -> None:
    objects = rendered(values)
    for budget in (one for one in objects if one["kind"] == "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] >= 1
        assert "minAvailable" not in budget["spec"]
    scaled = {
        one["spec"]["scaleTargetRef"]["name"]
        for one in objects
        if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    for deployment in (one for one in objects if one["kind"] == "Deployment"):
        # Helm 4 applies on the server's side: `replicas` beside an autoscaler fails the upgrade.
        assert ("replicas" in deployment["spec"]) != (deployment["metadata"]["name"] in scaled)
        strategy = deployment["spec"]["strategy"]
        if strategy["type"] == "RollingUpdate":
            assert sum(strategy["rollingUpdate"].values()) >= 1


def test_without_a_spare_gpu_a_rollout_waits_for_none() -> None:
    from support.charts import value_sets

    sets = {one.name: one for one in value_sets()}
    for name, surge in (("inference-gpu-no-spare", 0), ("inference-production", 1)):
        rolling = one_of(rendered(sets[name]), "Deployment")["spec"]["strategy"]["rollingUpdate"]
        assert (rolling["maxSurge"], rolling["maxUnavailable"]) == (surge, 1 - surge)


def test_every_container_of_a_program_has_what_was_added_for_it() -> None:
    """A proxy in the environment, a client's certificate for Postgres, a limit for a quota."""
    flags = [
        "--set=extraEnv[0].name=PGSSLCERT,extraEnv[0].value=/added/tls.crt",
        "--set=extraVolumes[0].name=added,extraVolumes[0].secret.secretName=client",
        "--set=extraVolumeMounts[0].name=added,extraVolumeMounts[0].mountPath=/added",
        "--set=resources.limits.cpu=2",
    ]
    checked = 0
    for chart, more in (
        ("inference", ["--set=test.resources.limits.cpu=1"]),
        ("labeling-ingest", []),
        ("training", []),
    ):
        text = template(chart, f"--values={VALUES / chart / 'minimal.yaml'}", *flags, *more)
        for name, spec in pods(objects_of(text)):
            assert "added" in {volume["name"] for volume in spec["volumes"]}, name
            for one in containers(spec):
                assert {"name": "PGSSLCERT", "value": "/added/tls.crt"} in one["env"], name
                assert {"name": "added", "mountPath": "/added"} in one["volumeMounts"], name
                assert "cpu" in one["resources"]["limits"], name
                checked += 1
    assert checked == 5


@pytest.mark.parametrize("chart", ["inference", "labeling-ingest", "training"])
def test_a_sidecar_is_there_before_the_programs_own_containers(chart: str) -> None:
    """Before the migration, too: it may be what leads to the database."""
    sidecar = {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}
    text = template(
        chart,
        f"--values={VALUES / chart / 'minimal.yaml'}",
        f"--set-json=extraInitContainers=[{json.dumps(sidecar)}]",
    )
    [*_, (_, spec)] = [one for one in pods(objects_of(text)) if not one[0].startswith("Pod/")]
    first, *own = containers(spec)
    assert first == sidecar
    assert own


def test_of_an_authoritys_secret_the_pod_sees_no_key() -> None:
    """cert-manager keeps an authority's key beside its certificate."""
    flags = "--set=tls.mode=secret,tls.existingSecret=t,tls.clientCaSecret=authority"
    text = template("inference", f"--values={VALUES / 'inference' / 'minimal.yaml'}", flags)
    spec = pod_of(one_of(objects_of(text), "Deployment"))
    assert spec is not None
    [secret] = [one["secret"] for one in spec["volumes"] if one["name"] == "client-ca"]
    assert secret["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


@pytest.mark.parametrize("chart", ["inference", "training"])
def test_another_request_for_gpus_is_another_template_of_claims(chart: str) -> None:
    """Kubernetes lets none change: an upgrade with another count would fail."""
    kind = "Deployment" if chart == "inference" else "CronJob"
    names = []
    for count in (1, 2, 2):
        flags = f"--set=gpu.mode=dra,gpu.count={count},config.fit.slices=2"
        if chart == "inference":
            flags = f"--set=gpu.mode=dra,gpu.count={count}"
        text = template(chart, f"--values={VALUES / chart / 'minimal.yaml'}", flags)
        objects = objects_of(text)
        spec = pod_of(one_of(objects, kind))
        assert spec is not None
        [claim] = spec["resourceClaims"]
        names.append(one_of(objects, "ResourceClaimTemplate")["metadata"]["name"])
        assert claim["resourceClaimTemplateName"] == names[-1]
    assert names[0] != names[1] == names[2]


def test_openshift_chooses_the_user_and_answers_names_on_its_own_port() -> None:
    example = CHARTS / "visionloop" / "examples" / "production.yaml"
    objects = objects_of(
        template("visionloop", f"--values={example}", "--set=global.openshift=true")
    )
    for name, spec in pods(objects):
        [said] = violations(spec)
        assert said.startswith("runs as whom the image says"), name
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(spec["securityContext"]), name
    checked = 0
    for one in objects:
        if one["kind"] == "NetworkPolicy" and "egress" in one["spec"]:
            names = next(rule["ports"] for rule in one["spec"]["egress"] if "ports" in rule)
            for port in (53, 5353):
                assert {"port": port, "protocol": "UDP"} in names
                assert {"port": port, "protocol": "TCP"} in names
            checked += 1
    assert checked == 6
