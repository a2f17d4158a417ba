"""What the pages say of the charts: every helm command renders, every kubectl command finds what it
names, and every piece of values is taken by the charts' strict schemas."""

from functools import cache
from pathlib import Path

import pytest
import yaml
from support.charts import (
    CHARTS,
    TRIAL_PASSWORD,
    VALUES,
    Object,
    containers,
    objects_of,
    pod_of,
    template,
)
from support.command_help import unknown_flags, without_namespace
from support.documented_commands import ROOT, Command, blocks, commands, pages

pytestmark = pytest.mark.usefixtures("helm_program")
EXAMPLES = CHARTS / "visionloop" / "examples"
BASE = {
    "visionloop": (f"--values={EXAMPLES / 'production.yaml'}",),
    **{
        chart: (f"--values={VALUES / chart / 'minimal.yaml'}",)
        for chart in ("inference", "labeling-ingest", "training")
    },
}
# The releases that the pages install, by name.
RELEASES = {
    "vision": ("--values", str(EXAMPLES / "production.yaml")),
    "demo": (
        *("--values", str(EXAMPLES / "laptop.yaml")),
        f"--set=trial.password={TRIAL_PASSWORD}",
    ),
}
KINDS = {"deploy": "Deployment", "svc": "Service", "cronjob": "CronJob", "statefulset": "StatefulSet"}  # fmt: skip # noqa: E501
AS_WORDS = {"ids": str}


@cache
def rendered(release: str) -> list[Object]:
    return objects_of(template("visionloop", *RELEASES[release], release=release))


@pytest.mark.parametrize("command", commands("helm"), **AS_WORDS)
def test_helm_takes_what_the_pages_say(command: Command, tmp_path: Path) -> None:
    words = without_namespace(command.words[1:])
    if words[0] == "diff":  # a plugin, which takes what upgrade takes
        words = words[1:]
    assert unknown_flags("helm", words) == []
    if words[0] not in ("install", "upgrade", "template"):
        return
    chart = next(word for word in words if word.startswith("charts/"))
    values: list[str] = []
    assert "--reuse-values" not in words, "it keeps the defaults of an older chart"
    if "--reset-then-reuse-values" in words:
        values += BASE[Path(chart).name]
    place = 0
    while place < len(words):
        if words[place] in ("--values", "-f"):
            values.append(f"--values={file_of(command, words[place + 1], tmp_path)}")
        elif words[place].startswith("--set"):
            values += words[place : place + 2]
        place += 1
    assert objects_of(template(Path(chart).name, *values))


def file_of(command: Command, name: str, folder: Path) -> Path:
    """The file that a page means: in the repository, a copy of an example, or shown there."""
    if (ROOT / name).exists():
        return ROOT / name
    if (EXAMPLES / name).exists():
        return EXAMPLES / name
    [shown] = [one for one in blocks(command.page, "yaml") if one.startswith(f"# {name}")]
    path = folder / name
    path.write_text(shown, encoding="utf-8")
    return path


@pytest.mark.parametrize("command", commands("kubectl"), **AS_WORDS)
def test_kubectl_takes_what_the_pages_say(command: Command) -> None:
    assert unknown_flags("kubectl", without_namespace(command.words[1:])) == []


@pytest.mark.parametrize("command", commands("kubectl"), **AS_WORDS)
def test_what_kubectl_is_told_to_find_is_rendered(command: Command) -> None:
    for word in command.words:
        kind, _, name = word.removeprefix("--from=").partition("/")
        if kind not in KINDS or not name:
            continue
        release = name.partition("-")[0]
        objects = rendered("demo" if release == "visionloop" else release)
        [found] = [
            one for one in objects if (one["kind"], one["metadata"]["name"]) == (KINDS[kind], name)
        ]
        if "-c" in command.words:
            container = command.words[command.words.index("-c") + 1]
            spec = pod_of(found)
            assert spec is not None
            assert container in {one["name"] for one in containers(spec)}


def test_labels_that_the_pages_select_by_are_on_pods() -> None:
    labels = {
        f"{name}={value}"
        for one in rendered("vision")
        for spec in [one.get("spec", {})]
        for holder in (spec, spec.get("jobTemplate", {}).get("spec", {}))
        for name, value in holder.get("template", {}).get("metadata", {}).get("labels", {}).items()
    }
    asked = set()
    for command in commands("kubectl"):
        for flag, said in zip(command.words, command.words[1:], strict=False):
            if flag in ("-l", "--selector"):
                asked |= set(said.split(","))
    assert asked
    own = {one for one in asked if "job-name=" not in one}  # which Kubernetes sets
    assert own - labels == set()


def values_on_pages() -> list[tuple[str, str, str]]:
    """(page, chart, text) of each YAML block that is a piece of values."""
    keys = {
        chart: set(yaml.safe_load((CHARTS / chart / "values.yaml").read_text(encoding="utf-8")))
        for chart in BASE
    }
    found = []
    for page in pages():
        for text in blocks(page, "yaml"):
            documents = list(yaml.safe_load_all(text))
            if len(documents) != 1 or not isinstance(documents[0], dict):
                continue
            top = set(documents[0])
            charts = [chart for chart in BASE if top <= keys[chart]]
            if charts:
                found.append((str(page.relative_to(ROOT)), charts[0], text))
    return found


@pytest.mark.parametrize(("page", "chart", "text"), values_on_pages())
def test_values_on_the_pages_are_values_of_the_charts(
    page: str, chart: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(text, encoding="utf-8")
    assert objects_of(template(chart, *BASE[chart], f"--values={path}")), page


def test_no_page_waits_for_the_success_of_a_job_alone() -> None:
    """One that has failed would be waited for until the time is up."""
    for command in commands("kubectl"):
        if "wait" in command.words:
            assert not any(word.startswith("job/") for word in command.words), command


def test_the_pages_show_values() -> None:
    assert len(values_on_pages()) > 8
    assert len(commands("helm")) > 10
