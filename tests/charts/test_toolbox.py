"""The pod in which people roll back: its own rights, out of the way of the service."""

import pytest
from support.charts import CHARTS, VALUES, Object, objects_of, one_of, pod_of, template

pytestmark = pytest.mark.usefixtures("helm_program")
PRODUCTION = f"--values={CHARTS / 'visionloop' / 'examples' / 'production.yaml'}"
MINIMAL = f"--values={VALUES / 'inference' / 'minimal.yaml'}"
NAME = "demo-inference-toolbox"


@pytest.fixture(scope="module")
def production() -> list[Object]:
    return objects_of(template("visionloop", PRODUCTION))


def keys_of(objects: list[Object], kind: str, name: str) -> set[str]:
    """The Secrets that a workload's variables come from."""
    spec = pod_of(one_of(objects, kind, name))
    assert spec is not None
    return {
        one["valueFrom"]["secretKeyRef"]["name"]
        for one in spec["containers"][0]["env"]
        if "secretKeyRef" in one.get("valueFrom", {})
    }


def test_it_has_trainings_keys_and_the_service_has_not(production: list[Object]) -> None:
    keys = keys_of(production, "Deployment", NAME)
    assert keys == {"visionloop-training-store", "visionloop-inference-test"}
    assert keys_of(production, "Deployment", "demo-inference") == {"visionloop-inference-store"}
    assert "visionloop-training-store" in keys_of(production, "CronJob", "demo-training")


def test_the_command_line_finds_store_and_service_there(production: list[Object]) -> None:
    spec = pod_of(one_of(production, "Deployment", NAME))
    assert spec is not None
    [container] = spec["containers"]
    said = {one["name"]: one.get("value") for one in container["env"]}
    assert said["VISIONLOOP_STORE"] == "s3://vision-models/production"
    assert said["VISIONLOOP_INFERENCE_TARGET"] == "demo-inference.vision.svc:8001"
    assert "/etc/visionloop/ca" in {one["mountPath"] for one in container["volumeMounts"]}
    [secret] = [one["secret"] for one in spec["volumes"] if one["name"] == "ca"]
    assert [one["key"] for one in secret["items"]] == ["ca.crt"]


def test_nothing_that_selects_the_service_selects_it(production: list[Object]) -> None:
    pod = one_of(production, "Deployment", NAME)["spec"]["template"]["metadata"]["labels"].items()
    checked = 0
    for one in production:
        spec = one.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector"))
        if one["metadata"]["name"] == NAME or not selector:
            continue
        wanted = selector.get("matchLabels", selector if one["kind"] == "Service" else {})
        assert not wanted or not wanted.items() <= pod, one["metadata"]["name"]
        checked += bool(wanted)
    assert checked > 6


def test_it_may_reach_store_and_service_and_nobody_may_reach_it(production: list[Object]) -> None:
    policy = one_of(production, "NetworkPolicy", NAME)["spec"]
    labels = one_of(production, "Deployment", NAME)["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert ports == {53, 443, 8001}
    caller = (
        '--set-json=inference.networkPolicy.from=[{"podSelector": {"matchLabels": {"a": "b"}}}]'
    )
    rules = one_of(
        objects_of(template("visionloop", PRODUCTION, caller)), "NetworkPolicy", "demo-inference"
    )["spec"]["ingress"]
    asking = [
        peer["podSelector"]["matchLabels"].get("app.kubernetes.io/name")
        for rule in rules
        for peer in rule.get("from", [])
        if "podSelector" in peer
    ]
    assert {"inference-test", "inference-toolbox"} <= set(asking)


@pytest.mark.parametrize(
    ("said", "toolbox", "service"),
    [
        ("storeSecret=keys,toolbox.serviceAccountName=mover", True, False),
        ("serviceAccount.name=reader,toolbox.storeSecret=keys", False, True),
        ("global.store.existingSecret=keys", False, False),
    ],
)
def test_the_agent_of_pod_identity_is_open_to_whoever_has_no_keys(
    said: str, toolbox: bool, service: bool
) -> None:
    objects = objects_of(template("inference", MINIMAL, f"--set=toolbox.enabled=true,{said}"))
    for name, wanted in ((NAME, toolbox), ("demo-inference", service)):
        rules = one_of(objects, "NetworkPolicy", name)["spec"]["egress"]
        assert (80 in {port["port"] for rule in rules for port in rule["ports"]}) == wanted


def test_it_is_asked_for_and_may_have_an_identity_instead_of_keys() -> None:
    assert NAME not in template("inference", MINIMAL)
    text = template(
        "inference", MINIMAL, "--set=toolbox.enabled=true,toolbox.serviceAccountName=mover"
    )
    objects = objects_of(text)
    for name, account in ((NAME, "mover"), ("demo-inference", "demo-inference")):
        spec = pod_of(one_of(objects, "Deployment", name))
        assert spec is not None
        assert spec["serviceAccountName"] == account


def test_it_starts_without_what_only_calls_of_the_service_need() -> None:
    """A Secret of tls.mode=secret has tls.crt and tls.key, and often no ca.crt: people roll back
    all the same."""
    said = "toolbox.enabled=true,tls.mode=secret,tls.existingSecret=t,test.tokenSecret=a"
    text = template("inference", MINIMAL, f"--set={said},test.clientSecret=c")
    spec = pod_of(one_of(objects_of(text), "Deployment", NAME))
    assert spec is not None
    secrets = {one["name"]: one["secret"] for one in spec["volumes"] if "secret" in one}
    assert set(secrets) == {"ca", "client"}
    assert all(one["optional"] for one in secrets.values())
    variables = {one["name"]: one for one in spec["containers"][0]["env"]}
    assert variables["VISIONLOOP_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"]


def test_it_takes_no_place_on_the_services_nodes() -> None:
    placed = ("nodeSelector.pool=gpu", "tolerations[0].key=gpu", "priorityClassName=serving")
    own = ("toolbox.nodeSelector.pool=small", "toolbox.tolerations[0].key=small")

    def toolbox(*said: str) -> Object:
        text = template("inference", MINIMAL, f"--set={','.join(('toolbox.enabled=true', *said))}")
        spec = pod_of(one_of(objects_of(text), "Deployment", NAME))
        assert spec is not None
        return spec

    assert toolbox(*placed, "affinity.nodeAffinity.x=y") == toolbox()
    spec = toolbox(*placed, *own)
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"pool": "small"}, [{"key": "small"}])
