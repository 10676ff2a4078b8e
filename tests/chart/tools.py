"""Helm, kubectl and the rendered chart, for all checks."""

import functools
import os
import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "egret"
SAMPLES = pathlib.Path(__file__).parent / "samples"
TOOLS = (ROOT / os.environ["EGRET_CHART_TOOLS"]).resolve()
NAMESPACE = "egret-system"
CASES = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))


def run(program, *words, text=None):
    """Runs a program of ours; its code, output and errors."""
    done = subprocess.run([TOOLS / "bin" / program, *words], input=text, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def helm(verb, *words, case=None):
    values = ["--values", str(CHART / "ci" / f"{case}.yaml")] if case else []
    chart = [str(CHART)] if verb == "lint" else ["egret", str(CHART)]
    return run("helm", verb, *chart, "--namespace", NAMESPACE, *values, *words)


@functools.cache
def text(case):
    """The chart rendered with the values of a file in ci/."""
    code, output, errors = helm("template", "--include-crds", case=case)
    assert code == 0, errors
    return output


@functools.cache
def objects(case):
    return [one for one in yaml.safe_load_all(text(case)) if one]


def of_kind(case, kind):
    return [one for one in objects(case) if one["kind"] == kind]


def named(case, kind, name):
    (found,) = (one for one in of_kind(case, kind) if one["metadata"]["name"] == name)
    return found


def workloads(case):
    """Everything with a pod template: (its name, the template, all its containers)."""
    for one in objects(case):
        if one["kind"] in ("Deployment", "DaemonSet", "Job"):
            template = one["spec"]["template"]
            containers = template["spec"].get("initContainers", []) + template["spec"]["containers"]
            yield f"{one['kind']} {one['metadata']['name']}", template, containers


@functools.cache
def crds():
    """The definitions by kind."""
    found = [yaml.safe_load(path.read_text()) for path in sorted((CHART / "crds").glob("*.yaml"))]
    return {one["spec"]["names"]["kind"]: one for one in found}
