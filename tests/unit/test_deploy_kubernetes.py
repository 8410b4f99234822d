"""The Kubernetes files: against KubeRay's own schemas, and against what the project says elsewhere."""

import copy
import gzip
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from judge.config import people_of
from orchestrator.config import parse_config
from tests.support.shared_data import shared_data

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERAY = ["rayjob", "raycluster"]
LABEL = ["label-server", "postgres"]


def documents(path):
    return [document for document in yaml.safe_load_all((DEPLOY / path).read_text()) if document]


def one(name):
    (document,) = documents(f"kuberay/{name}.yaml")
    return document


def strict(schema):
    """The schema without its tolerance for unknown keys, which Kubernetes would drop in silence."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made:
        made["additionalProperties"] = bool(made.get("x-kubernetes-preserve-unknown-fields"))
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


@pytest.fixture(scope="module")
def validators():
    return {name: validator(name) for name in KUBERAY}


def validator(name):
    # PyYAML's own loader takes ten times as long for these files.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(gzip.decompress(shared_data(f"ray.io_{name}s.yaml.gz").read_bytes()), Loader=loader)
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def cluster_of(document):
    return document["spec"].get("rayClusterSpec", document["spec"])


def pods(document):
    cluster = cluster_of(document)
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", KUBERAY)
def test_it_is_what_kuberays_schema_describes(validators, name):
    assert [error.message for error in validators[name].iter_errors(one(name))] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("rayClusterSpec", "workerGroups"), []),
        (("backoffLimit",), "five"),
    ],
)
def test_the_schema_check_can_fail(validators, path, value):
    document = copy.deepcopy(one("rayjob"))
    *parents, leaf = path
    place = document["spec"]
    for parent in parents:
        place = place[parent]
    place[leaf] = value
    assert list(validators["rayjob"].iter_errors(document))


@pytest.mark.parametrize("name", KUBERAY)
def test_ray_is_the_version_that_the_project_pins_and_asks_for_a_token(name):
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    cluster = cluster_of(one(name))
    assert f"ray[default]=={cluster['rayVersion']}" in wanted
    assert cluster["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("name", KUBERAY)
def test_the_learners_node_stays_and_engines_come_and_go(name):
    groups = {group["groupName"]: group for group in cluster_of(one(name))["workerGroupSpecs"]}
    assert groups["learner"]["minReplicas"] == groups["learner"]["maxReplicas"] == 1
    assert groups["rollout"]["minReplicas"] < groups["rollout"]["maxReplicas"]
    assert cluster_of(one(name))["enableInTreeAutoscaling"] is True


@pytest.mark.parametrize("name", KUBERAY)
def test_secrets_are_files_of_a_secret_and_nothing_secret_is_in_an_environment(name):
    document = one(name)
    for pod in pods(document):
        (secret,) = [volume for volume in pod["spec"]["volumes"] if "secret" in volume]
        assert secret["secret"]["secretName"] == "rondo-secrets"
        assert all("env" not in container for container in pod["spec"]["containers"])
    runtime = yaml.safe_load(document["spec"].get("runtimeEnvYAML", "{}"))
    assert [key for key in runtime.get("env_vars", {}) if "KEY" in key or "TOKEN" in key] == []


@pytest.mark.parametrize("name", KUBERAY)
def test_a_pod_that_goes_stops_its_run_first(name):
    head, *workers = pods(one(name))
    (container,) = head["spec"]["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["rondo-pre-stop"]
    assert head["spec"]["terminationGracePeriodSeconds"] >= 120
    assert all(worker["spec"]["containers"][0]["lifecycle"]["preStop"] for worker in workers)


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_run_as_nobody_special_with_every_mount_there(name):
    for pod in pods(one(name)):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_job_goes_through_the_wrapper_and_has_time_to_stop():
    spec = one("rayjob")["spec"]
    assert spec["entrypoint"].startswith("rondo-job run ")
    assert int(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert spec["backoffLimit"] > 0


def label_objects():
    return [document for name in LABEL for document in documents(f"label/{name}.yaml")]


def test_the_labelling_files_select_what_they_make():
    objects = label_objects()
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in objects if "template" in each.get("spec", {})]
    for each in objects:
        if each["kind"] in ("Deployment", "StatefulSet"):
            selector = each["spec"]["selector"]["matchLabels"]
            assert selector.items() <= each["spec"]["template"]["metadata"]["labels"].items()
        if each["kind"] == "Service":
            assert any(each["spec"]["selector"].items() <= one.items() for one in labels)


def test_the_ingress_leads_over_tls_to_the_page():
    by_kind = {(each["kind"], each["metadata"]["name"]): each for each in label_objects()}
    ingress = by_kind["Ingress", "rondo-label-server"]["spec"]
    backend = ingress["rules"][0]["http"]["paths"][0]["backend"]["service"]
    service = by_kind["Service", backend["name"]]["spec"]["ports"][0]
    (container,) = by_kind["Deployment", "rondo-label-server"]["spec"]["template"]["spec"]["containers"]
    assert service["name"] == backend["port"]["name"]
    assert service["targetPort"] == container["ports"][0]["name"]
    assert ingress["tls"][0]["hosts"] == [ingress["rules"][0]["host"]]


def test_the_pages_own_configuration_holds_and_agrees_with_ports_and_names():
    by_kind = {(each["kind"], each["metadata"]["name"]): each for each in label_objects()}
    tree = yaml.safe_load(by_kind["ConfigMap", "rondo-people"]["data"]["people.yaml"])
    people = people_of(parse_config(tree, origin="people.yaml").judge)
    (container,) = by_kind["Deployment", "rondo-label-server"]["spec"]["template"]["spec"]["containers"]
    assert people.page.port == container["ports"][0]["containerPort"]
    assert (
        people.page.public_url.removeprefix("https://")
        == by_kind["Ingress", "rondo-label-server"]["spec"]["rules"][0]["host"]
    )
    (database,) = by_kind["StatefulSet", "rondo-postgres"]["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each.get("value") for each in database["env"]}
    service = by_kind["Service", "rondo-postgres"]
    port = service["spec"]["ports"][0]["port"]
    wanted = f"postgresql://{env['POSTGRES_USER']}@{service['metadata']['name']}:{port}/{env['POSTGRES_DB']}"
    assert people.queue_url == wanted


def test_labelling_secrets_come_from_one_kubernetes_secret():
    found = []
    for each in label_objects():
        for container in each.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
            for variable in container.get("env", []):
                if "PASSWORD" in variable["name"] or "TOKEN" in variable["name"]:
                    found.append((variable["name"], variable["valueFrom"]["secretKeyRef"]["name"]))
    assert len(found) == 3
    assert {secret for _, secret in found} == {"rondo-labels"}


def test_the_labelling_files_are_what_kubernetes_describes():
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for each in label_objects():
        validate.validate(each, "1.31", strict=True)
