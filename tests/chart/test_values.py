"""Values: every one is in the schema, and what is wrong is refused with words that help."""

import json
import tempfile
import unittest

import yaml

from tools import CHART, helm, named

# (what is set beside ci/default.yaml, what the answer has to say)
REFUSED = [
    (["image.repository="], "there is no public image yet"),
    (["git.repo="], "git.repo is needed"),
    (["git.repo=http://git.example/egress.git"], "use https or ssh"),
    (["git.repo=https://user:secret@git.example/egress.git"], "they belong into a Secret"),
    (["git.repo=egress.git"], "none of https://HOST/PATH"),
    (["git.repo=a b"], "/git/repo"),
    (["git.auth=token"], "git.existingSecret must name the Secret"),
    (["git.existingSecret=egret-git"], "set git.auth to ssh or token"),
    (["git.auth=ssh", "git.existingSecret=egret-git"], "git.auth is ssh and git.repo is an https address"),
    (["git.repo=git@git.example:egress.git"], "take git.auth=ssh"),
    (["git.auth=basic"], "'none', 'ssh', 'token', 'app'"),
    (["git.auth=app"], "githubApp.id must say which App it is"),
    (["git.auth=app", "githubApp.id=a1"], "githubApp.existingSecret must name the Secret"),
    (["git.auth=app", "githubApp.id=a1", "githubApp.existingSecret=a", "git.existingSecret=b"], "is in githubApp.existingSecret"),
    (["githubApp.id=a1", "githubApp.existingSecret=a"], "nothing uses it"),
    (["githubApp.id=a1", "githubApp.existingSecret=a", "previews.forge=github"], "take git.auth=app"),
    (["githubApp.api=http://github.example"], "/githubApp/api"),
    (["previews.forge=github"], "previews.existingSecret must name the Secret with a token"),
    (["previews.forge=gitea", "previews.existingSecret=a"], "previews.url must say where it is"),
    (["previews.existingSecret=a"], "say which forge the token is for"),
    (["previews.forge=bitbucket"], "/previews/forge"),
    (["previews.url=https://user:secret@forge.example"], "/previews/url"),
    (["git.proxy.url=http://me:secret@proxy.example:3128"], "/git/proxy/url"),
    (["git.proxy.url=https://proxy.example:3128"], "/git/proxy/url"),
    (["git.proxy.url=http://proxy.example"], "/git/proxy/url"),
    (["git.proxy.url=http://p:1", "git.proxy.existingSecret=p"], "name the proxy once"),
    (["git.repo=git@git.example:e.git", "git.auth=ssh", "git.existingSecret=g", "git.proxy.url=http://p:1"], "git.proxy is for HTTPS"),
    (["git.repo=git@git.example:e.git", "git.auth=ssh", "git.existingSecret=g", "git.clientCertificateSecret=c"], "is for HTTPS"),
    (["git.timeouts.total=0"], "/git/timeouts/total"),
    (["git.maxSizeMiB=0"], "/git/maxSizeMiB"),
    (["webhook.enabled=true"], "webhook.existingSecret must name the Secret"),
    (["webhook.enabled=true", "webhook.existingSecret=w", "webhook.port=9090"], "they are two servers"),
    (["webhook.service.type=ExternalName"], "/webhook/service/type"),
    (["git.branch=a b"], "/git/branch"),
    (["git.signatures.require=all"], "'', 'head', 'every'"),
    (["git.pollSeconds=0"], "/git/pollSeconds"),
    (["image.tag=latest"], "nobody could tell which version a node runs"),
    (["image.repository=registry.example/egret:1.0"], "/image/repository"),
    (["image.digest=sha256:12"], "/image/digest"),
    (["image.pullPolicy=Sometimes"], "'Always', 'IfNotPresent', 'Never'"),
    (["controller.replicas=0"], "/controller/replicas"),
    (["controller.replica=3"], "additional properties 'replica' not allowed"),
    (["agents.port=9091"], "additional properties 'agents' not allowed"),
    (["agent.port=70000"], "/agent/port"),
    (["agent.maxUnavailable=0"], "/agent/maxUnavailable"),
    (["agent.maxUnavailable=110%"], "/agent/maxUnavailable"),
    (["agent.stateDir=/"], "/agent/stateDir"),
    (["agent.resources.limits.memory=lots"], "/agent/resources/limits/memory"),
    (["listenAddress=localhost"], "/listenAddress"),
    (["nodeLabels.allowedKeys={a*b}"], "/nodeLabels/allowedKeys"),
    (["nodeLabels.allowedKeys={*/a}"], "/nodeLabels/allowedKeys"),
    (["nodeLabels.allowedKeys={example.com/}"], "/nodeLabels/allowedKeys"),
    (["nodeLabels.allowedKeys={a'b}"], "/nodeLabels/allowedKeys"),
    (["nodeLabels.allowed={a}"], "additional properties 'allowed' not allowed"),
    (["removeIdleImage=pause"], "/removeIdleImage"),
    (["removeIdleImage=pause:latest"], "nobody could tell which version a node runs"),
    (["networkPolicy.gitCIDRs={10.0.0.1}"], "/networkPolicy/gitCIDRs"),
    (["controller.extraEnv[0].name=EGRET_REPO"], "Egret's own settings come from the chart's values"),
    (["agent.extraEnv[0].name=EGRET_NODE"], "agent.extraEnv has EGRET_NODE"),
    (["controller.extraArgs={--repo=/tmp}"], "controller.extraArgs has --repo=/tmp, which the chart gives"),
    (["agent.extraArgs={--remove}"], "agent.extraArgs has --remove"),
    (["agent.extraArgs={remove}"], "/agent/extraArgs"),
    (["agent.updateStrategy=Recreate"], "/agent/updateStrategy"),
    (["commonLabels.helm\\.sh/chart=x"], "commonLabels has helm.sh/chart, which the chart gives"),
    (["serviceAccount.name=mine"], "additional properties 'name' not allowed"),
    (["monitoring.prometheusRule.enabled=true", "monitoring.prometheusRule.alerts.EgretNothing.for=5m"], "EgretNothing, which is no alert"),
    (["monitoring.prometheusRule.alerts.EgretNoLeader.for=soon"], "/monitoring/prometheusRule/alerts/EgretNoLeader/for"),
    (["monitoring.prometheusRule.runbooks=https://git.example/runbooks"], "/monitoring/prometheusRule/runbooks"),
    (["monitoring.podMonitor.enabled=true", "monitoring.serviceMonitor.enabled=true"], "scraped twice"),
]


# What every installation has to set, and maps that are free in form: these are filled as a whole.
NEEDED = {("image", "repository"), ("git", "repo")}
FREE = {"resources", "labels", "annotations"}


def nothing(values, place=()):
    """The same tree with null in the place of every value."""
    found = {}
    for key, value in values.items():
        here = (*place, key)
        if here not in NEEDED:
            found[key] = nothing(value, here) if isinstance(value, dict) and value and key not in FREE else None
    return found


class Values(unittest.TestCase):
    def test_defaults_are_a_copy_of_the_values(self):
        """Templates cannot read values.yaml: `cp charts/egret/values.yaml charts/egret/defaults.yaml`."""
        self.assertEqual((CHART / "defaults.yaml").read_text(), (CHART / "values.yaml").read_text())

    def test_a_value_that_is_missing_or_null_has_its_default(self):
        """As after `helm upgrade --reuse-values` with a chart that has new values."""
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        wanted = helm("template", case="default")[1]
        absent = {name: None for name in values if name not in ("image", "git")}
        for tree in (nothing(values), absent):
            with self.subTest(list(tree)), tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(tree, file)
                file.flush()
                code, output, errors = helm("template", "--values", file.name, case="default")
                self.assertEqual((code, errors), (0, ""))
                self.assertTrue(output == wanted, "it renders something else")

    def test_a_limit_can_be_taken_away(self):
        code, output, errors = helm("template", "--set-json", "agent.resources={\"limits\": null}", case="default")
        self.assertEqual(code, 0, errors)
        agent = next(one for one in yaml.safe_load_all(output) if one and one["kind"] == "DaemonSet")
        self.assertEqual(list(agent["spec"]["template"]["spec"]["containers"][0]["resources"]), ["requests"])

    def test_bad_values_are_refused_with_their_place(self):
        for values, says in REFUSED:
            with self.subTest(values):
                words = [word for value in values for word in ("--set", value)]
                code, _, errors = helm("template", *words, case="default")
                self.assertNotEqual(code, 0, "it was taken")
                self.assertIn(says, errors)

    def test_without_any_values_it_says_what_is_needed(self):
        code, _, errors = helm("template")
        self.assertNotEqual(code, 0)
        self.assertIn("git.repo is needed", errors)

    def test_the_schema_has_what_values_have_and_nothing_more(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        values = yaml.safe_load((CHART / "values.yaml").read_text())

        def resolve(one):
            reference = one.get("$ref")
            return schema["definitions"][reference.rsplit("/", 1)[1]] if reference else one

        def compare(value, one, place):
            one = resolve(one)
            if one.get("type") != "object" or "properties" not in one:
                return
            self.assertIs(one["additionalProperties"], False, place)
            if place.endswith((".resources", ".limits", ".requests", ".seLinuxOptions")):
                return
            self.assertEqual(set(value) | {"global"} if place == "" else set(value), set(one["properties"]), place)
            for key, inner in value.items():
                compare(inner, one["properties"][key], f"{place}.{key}")

        compare(values, schema, "")

    def test_every_value_of_the_first_two_levels_is_explained(self):
        lines = (CHART / "values.yaml").read_text().splitlines()
        bare = []
        for number, line in enumerate(lines[1:], 1):
            depth = len(line) - len(line.lstrip(" "))
            # A group is explained by its values; `enabled` and what stands right below an explained value go without.
            group = line.endswith(":")
            if line.strip() and depth <= 2 and not line.lstrip().startswith(("#", "- ")) and not group:
                explained = any(lines[number - back].lstrip().startswith("#") for back in (1, 2))
                if not explained:
                    bare.append(line)
        self.assertEqual(bare, [])

    def test_the_charts_version_is_the_programs(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        manifest = (CHART.parents[1] / "Cargo.toml").read_text()
        version = next(line.split('"')[1] for line in manifest.splitlines() if line.startswith("version = "))
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))


class Choices(unittest.TestCase):
    def test_a_digest_wins_over_the_tag(self):
        (container,) = named("ssh", "Deployment", "egret-controller")["spec"]["template"]["spec"]["containers"]
        self.assertRegex(container["image"], r"^registry\.example:5000/network/egret@sha256:")

    def test_secrets_come_as_files_that_the_group_alone_reads(self):
        wanted = {
            "ssh": {"egret-git": ["ssh-privatekey", "known_hosts"], "egret-signing": ["ssh-privatekey"]},
            "https-token": {"egret-git": ["token"]},
        }
        for case, secrets in wanted.items():
            pod = named(case, "Deployment", "egret-controller")["spec"]["template"]["spec"]
            found = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
            self.assertEqual({secret["defaultMode"] for secret in found}, {0o440})
            keys = {secret["secretName"]: [item["key"] for item in secret["items"]] for secret in found}
            self.assertEqual(keys, secrets)
        pod = named("webhook", "Deployment", "egret-controller")["spec"]["template"]["spec"]
        secrets = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        self.assertEqual({secret["defaultMode"] for secret in secrets}, {0o440})
        found = {secret["secretName"]: [(item["key"], item["path"]) for item in secret["items"]] for secret in secrets}
        wanted = {
            "egret-git": [("password", "password")],
            "egret-git-tls": [("tls.crt", "tls.crt"), ("tls.key", "tls.key")],
            "egret-webhook": [("hmac", "secret")],
        }
        self.assertEqual(found, wanted)

    def test_every_file_of_signatures_that_is_named_is_mounted(self):
        pod = named("ssh", "Deployment", "egret-controller")["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        self.assertIn("--require-signed=every", container["args"])
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for option, name in {"allowed-signers": "signers", "openpgp-keys": "openpgp", "signing-key": "signing"}.items():
            source = volumes[name].get("configMap") or volumes[name]["secret"]
            (item,) = source["items"]
            self.assertIn(f"--{option}={mounts[name]}/{item['path']}", container["args"])
        (container,) = named("default", "Deployment", "egret-controller")["spec"]["template"]["spec"]["containers"]
        self.assertNotIn("sign", " ".join(container["args"]))

    def test_a_proxy_with_a_password_is_no_argument(self):
        (container,) = named("webhook", "Deployment", "egret-controller")["spec"]["template"]["spec"]["containers"]
        self.assertFalse([word for word in container["args"] if "proxy" in word])
        (variable,) = (one for one in container["env"] if one["name"] == "EGRET_GIT_PROXY")
        self.assertEqual(variable["valueFrom"], {"secretKeyRef": {"name": "egret-proxy", "key": "address"}})
        self.assertIn("--git-connect-timeout=5.5", container["args"])

    def test_on_the_way_out_the_controller_stops_and_agents_clean_first(self):
        self.assertEqual(named("remove", "Deployment", "egret-controller")["spec"]["replicas"], 0)
        pod = named("remove", "DaemonSet", "egret-agent")["spec"]["template"]["spec"]
        self.assertEqual(pod["initContainers"][0]["args"][:2], ["agent", "--remove"])
        job = named("remove", "Job", "egret-remove")
        self.assertEqual(job["metadata"]["annotations"]["helm.sh/hook"], "pre-delete")
        (container,) = job["spec"]["template"]["spec"]["containers"]
        self.assertEqual(container["args"][:2], ["controller", "--remove"])
