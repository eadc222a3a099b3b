"""The page on many machines runs as written; the files under deploy/ are valid and call what exists."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml
from tests.until import run_patiently

from eau2.cli.app import application

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "machines.md").read_text()
COMMANDS = typer.main.get_command(application()).commands


def commands_in(text):
    """The eau2 commands that `text` shows, each a list of words."""
    names = "|".join(COMMANDS)
    return [shlex.split(found) for found in re.findall(rf"\beau2 ((?:{names})\b[^`\n#\"]*)", text)]


@pytest.mark.long
def test_the_commands_of_the_page_run_as_written(tmp_path):
    scripts = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(scripts) == 2
    environment = {name: value for name, value in os.environ.items() if name != "EAU2_STORE"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment["EAU2_HOME"] = str(tmp_path / "home")
    try:
        for script in scripts:
            done = run_patiently(["bash", "-e"], input=script, cwd=tmp_path, env=environment, timeout=300)
            assert done.returncode == 0, done.stderr
            assert re.search(r"Boston.*30", done.stdout)
            assert re.search(r"Salem.*7", done.stdout)
    finally:
        subprocess.run([sys.executable, "-m", "eau2.cli", "down"], env=environment, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    "path", [ROOT / "docs" / "machines.md", *sorted(DEPLOY.glob("*.yaml"))], ids=lambda path: path.name
)
def test_the_commands_that_are_shown_have_these_options(path):
    shown = commands_in(path.read_text())
    assert ["deploy"] in [words[:1] for words in shown]
    for name, *words in shown:
        options = {text for parameter in COMMANDS[name].params for text in parameter.opts} | {"--store"}
        assert {word for word in words if word.startswith("--")} <= options


def test_ray_takes_the_file_for_aws():
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = yaml.safe_load((DEPLOY / "aws.yaml").read_text())
    util.validate_config(util.prepare_config(config))
    with pytest.raises(Exception, match="nonsense"):
        util.validate_config(util.prepare_config({**config, "nonsense": 1}))
    json.loads((DEPLOY / "aws-permissions.json").read_text())


def test_every_container_has_a_disk_a_name_and_the_token():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    disks = [service["volumes"] for service in compose["services"].values()]
    assert disks == [[f"{name}:/data"] for name in compose["services"]]
    assert set(compose["volumes"]) == set(compose["services"])
    for name, service in compose["services"].items():
        assert service["hostname"] == name
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert "ports" not in service


def test_every_pod_has_its_machines_disk_and_name():
    spec = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert group["rayStartParams"]["labels-file"] == "/labels/labels.yaml"
        assert [volume["name"] for volume in pod["volumes"]] == ["data", "labels"]
        assert pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
