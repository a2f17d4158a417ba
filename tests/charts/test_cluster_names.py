"""The end-to-end test of a real cluster cannot run everywhere: what it names must be rendered, and
what it tells kubectl and helm must be their flags."""

import ast
from pathlib import Path

import pytest
from support import cluster
from support.charts import (
    TRIAL_PASSWORD,
    Object,
    containers,
    objects_of,
    one_of,
    pod_of,
    template,
)
from support.command_help import unknown_flags

from visionloop.cli.main import parser as cli_parser
from visionloop_training.config import load

pytestmark = pytest.mark.usefixtures("helm_program")
STORY = Path(__file__).parents[1] / "cluster" / "test_the_loop.py"


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CLUSTER_VALUES", raising=False)
        flags = cluster.value_flags()
    password = f"--set=trial.password={TRIAL_PASSWORD}"
    return objects_of(template("visionloop", *flags, password, release=cluster.RELEASE))


def test_the_objects_that_it_names_are_rendered(objects: list[Object]) -> None:
    for kind, name in (
        ("Deployment", cluster.INFERENCE),
        ("Deployment", cluster.LABELING),
        ("CronJob", cluster.TRAINING),
        ("StatefulSet", cluster.STORE),
        ("StatefulSet", cluster.POSTGRES),
    ):
        assert one_of(objects, kind, name)
    for name, port in ((cluster.INFERENCE, 8001), (cluster.LABELING, 8081)):
        ports = one_of(objects, "Service", name)["spec"]["ports"]
        assert port in {one["port"] for one in ports}
    [hook] = [one for one in objects if one["kind"] == "Pod"]
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "test"


def test_labels_and_containers_are_those_of_the_pods(objects: list[Object]) -> None:
    for name, said in (
        (cluster.INFERENCE, cluster.PODS_OF_INFERENCE),
        (cluster.LABELING, cluster.PODS_OF_LABELING),
    ):
        deployment = one_of(objects, "Deployment", name)
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert dict(one.split("=") for one in said.split(",")).items() <= labels.items()
        assert deployment["spec"]["replicas"] == 2, "an upgrade needs one that stays"
        spec = pod_of(deployment)
        assert spec is not None
        assert name.removeprefix(f"{cluster.RELEASE}-") in {one["name"] for one in containers(spec)}


def test_its_training_is_one_that_the_program_takes(objects: list[Object], tmp_path: Path) -> None:
    [text] = one_of(objects, "ConfigMap", cluster.TRAINING)["data"].values()
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    assert load("", path).backbone.weights == "none"


def test_its_commands_have_only_flags_that_there_are() -> None:
    calls = [
        node
        for path in (STORY, Path(cluster.__file__))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("kubectl", "helm")
    ]
    checked = 0
    for call in calls:
        words = [word for argument in call.args if (word := _word(argument))]
        if words and isinstance(call.args[0], ast.Constant):
            assert unknown_flags(call.func.attr, words) == [], ast.unparse(call)
            checked += 1
    assert checked > 15


def test_the_command_line_takes_what_it_asks_of_models() -> None:
    asked = [
        [_word(one) or "digits" for one in node.args[1:]]
        for node in ast.walk(ast.parse(STORY.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "models"
    ]
    assert {words[0] for words in asked} == {"rollback", "show"}
    for words in asked:
        assert cli_parser().parse_args(["models", *words])


def _word(argument: ast.expr) -> str:
    """A literal word, or the beginning of one that is put together; else nothing."""
    if isinstance(argument, ast.Constant):
        return str(argument.value)
    if isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.Constant):
        return str(argument.values[0].value)
    return ""
