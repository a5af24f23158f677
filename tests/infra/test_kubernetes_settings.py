"""What pods read: the variables of the manifests, and of the secrets that the documents have people make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import yaml

from deploy.studio.guard import objection
from deploy.studio.limits import Limits
from infra.instance import RESULT
from infra.jobs.kubernetes.settings import ClusterSettings
from infra.notify import destinations
from infra.settings import REPOSITORY, Settings
from tests.infra.test_kubernetes_manifests import FOLDER, Object, everything, objects, variables, workloads

ALERTS, SIGNING = "backdrop-alerts", "SIGNING_PEM"
BASE = FOLDER / "base"


def secrets() -> dict[str, dict[str, str]]:
    """Of the documents: name → variable → value."""
    text = "".join((REPOSITORY / "docs" / page).read_text() for page in ("cluster.md", "runbook.md"))
    made = re.findall(r"create secret generic (\S+)(.*)", re.sub(r"\\\n", " ", text))
    found = {name: dict(re.findall(r"--from-(?:literal|file)=([\w-]+)=[\"']?([^\s\"']+)", rest)) for name, rest in made}
    assert len(found) == len(made)
    return found


def environment(container: Object) -> dict[str, str]:
    """Of one container, with every secret there, optional or not."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "secretRef" in source:
            found |= secrets()[source["secretRef"]["name"]]
        elif source["configMapRef"]["name"] == "backdrop":
            found |= variables(BASE / "settings.env")
    for one in container.get("env", []):
        reference = one.get("valueFrom", {}).get("secretKeyRef")
        found[one["name"]] = secrets()[reference["name"]][reference["key"]] if reference else one["value"]
    return found


def container(service: str) -> Object:
    deployment = objects((BASE / f"{service}.yaml").read_text())[0]
    return dict(deployment["spec"]["template"]["spec"]["containers"][0])


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    for name, _, template in workloads(everything()):
        for one in template["spec"]["containers"]:
            yield name, environment(one)
    run = yaml.safe_load(RESULT.read_text())["run_launcher"]["config"]
    jobs = ClusterSettings.load(BASE / "cluster.yaml")
    for name, config_maps, given in (
        ("run worker", run["env_config_maps"], run["env_secrets"]),
        ("GPU job", jobs.config_maps, jobs.secrets),
    ):
        sources = [{"configMapRef": {"name": one}} for one in config_maps]
        yield name, environment({"envFrom": [*sources, *({"secretRef": {"name": one}} for one in given)]})


def test_every_pod_reads_its_variables_as_settings() -> None:
    """An unknown BACKDROP_ variable is refused: a secret that is none must not begin so."""
    found = dict(environments())
    assert len(found) > 9
    for variables_of in found.values():
        Settings.load(variables_of)
    signs = {name for name, one in found.items() if SIGNING in one}
    assert signs == {"run worker", "base/doctor.yaml:CronJob/backdrop-doctor"}
    assert variables(BASE / "settings.env")["BACKDROP_SIGNING_KEY"] == f"env:{SIGNING}"


def test_alerts_are_sent_from_where_their_secret_is() -> None:
    """Sensors are evaluated in the code location; without the secret it starts all the same, and tells nobody."""
    location = container("code-location")
    source = {"secretRef": {"name": ALERTS, "optional": True}}
    assert source in location["envFrom"]
    holders = {path.name for path in FOLDER.rglob("*.yaml") if ALERTS in path.read_text()}
    assert holders == {"code-location.yaml"}
    given = environment(location)
    settings = Settings.load(given)
    assert [one.name for one in destinations(settings)] == ["webhook", "email"]
    for reference in (settings.alert_webhook, settings.alert_webhook_key, settings.smtp_password):
        assert str(reference).removeprefix("env:") in given
    without = environment({**location, "envFrom": [one for one in location["envFrom"] if one != source]})
    assert destinations(Settings.load(without)) == []


def test_the_studio_answers_to_its_services_name() -> None:
    deployment, service = objects((BASE / "studio.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    arguments = pod["containers"][0]["args"]
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    asked = urlsplit(variables(BASE / "settings.env")["BACKDROP_STUDIO_URL"])
    name = service["metadata"]["name"]
    assert asked.hostname == given["--host"] == name
    assert asked.port == int(given["--port"]) == service["spec"]["ports"][0]["port"]
    assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
    # On every address of the pod: probes come to its own, a forwarded port to the loopback.
    assert pod["hostAliases"] == [{"ip": "0.0.0.0", "hostnames": [name]}]
    for host in (asked.netloc, "10.1.2.3:3001"):
        assert objection("GET", {"host": host}, [given["--host"]]) is None, host
    assert objection("GET", {"host": "evil.example:3001"}, [given["--host"]]) is not None


def test_the_studio_signs_nothing() -> None:
    settings = Settings.load(environment(container("studio")))
    assert settings.signing_key is None
    assert settings.catalog_url


def test_the_studio_has_room_for_what_it_lets_in() -> None:
    """docs/studio.md adds up the same."""
    limits, side = Limits(), 3 + 3 + 3 + 3 + 1  # bytes a pixel: made, pasted, in its file, read back, and a mask's
    photographs = limits.waiting_pixels * (3 + 1)
    hands = 2 * (limits.pixels * side + limits.upload_bytes)
    inside = limits.shelf_bytes + photographs + hands
    text = container("studio")["resources"]["limits"]["memory"]
    assert inside < 2e9
    assert int(text.removesuffix("Gi")) * 2**30 > inside + 4e9
