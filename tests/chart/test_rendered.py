"""What helm renders for every file in ci/: valid, as small as it can be in rights, and of one piece."""

import collections
import json
import os
import pathlib
import re
import subprocess
import unittest

import kubernetes_validate
import yaml

import rights
from tools import CASES, CHART, NAMESPACE, ROOT, crds, helm, named, objects, of_kind, run, text, workloads

# The oldest that Chart.yaml lets in, and the newest that is known.
KUBERNETES = ["1.32", kubernetes_validate.latest_version()]
# Others' resources, which are not in Kubernetes' schemas.
FOREIGN = {"PodMonitor", "PrometheusRule", "ServiceMonitor"}


class Rendered(unittest.TestCase):
    def test_helm_lints_strictly(self):
        for case in CASES:
            with self.subTest(case):
                code, output, errors = helm("lint", "--strict", case=case)
                self.assertEqual(code, 0, output + errors)
                self.assertNotRegex(output, r"\[(WARNING|ERROR)\]")

    def test_helm_would_install_it(self):
        for case in CASES:
            with self.subTest(case):
                code, output, errors = helm("install", "--dry-run=client", case=case)
                self.assertEqual(code, 0, errors)
                self.assertIn("NOTES:", output)

    def test_every_object_is_valid_to_the_letter(self):
        for case in CASES:
            with self.subTest(case):
                for one in objects(case):
                    if one["kind"] not in FOREIGN:
                        for version in KUBERNETES:
                            kubernetes_validate.validate(one, version, strict=True)

    def test_kubectl_reads_it(self):
        for case in CASES:
            with self.subTest(case):
                code, output, errors = run("kubectl", "label", "--local", "-f", "-", "read=yes", "-o", "name", text=text(case))
                self.assertEqual(code, 0, errors)
                self.assertEqual(len(output.split()), len(objects(case)))

    def test_no_object_is_there_twice_and_all_are_labelled(self):
        for case in CASES:
            with self.subTest(case):
                names = collections.Counter((one["kind"], one["metadata"]["name"]) for one in objects(case))
                self.assertEqual([name for name, times in names.items() if times > 1], [])
                for one in objects(case):
                    self.assertEqual(one["metadata"]["labels"]["app.kubernetes.io/name"], "egret", one["metadata"])

    def test_the_definitions_are_helms_to_install(self):
        for case in CASES:
            with self.subTest(case):
                self.assertEqual(len(of_kind(case, "CustomResourceDefinition")), len(crds()))

    def test_no_secret_is_made_and_no_placeholder_left(self):
        for case in CASES:
            with self.subTest(case):
                self.assertEqual(of_kind(case, "Secret"), [])
                # Prometheus' own templates are in alerts.
                written = [one for one in text(case).split("\n---\n") if "\nkind: PrometheusRule\n" not in one]
                self.assertIsNone(re.search(r"<no value>|%!|\{\{(?!\w+\}\})", "".join(written)))

    def test_the_dashboard_is_the_file_and_its_panels_do_not_cover_each_other(self):
        dashboard = json.loads(named("monitoring", "ConfigMap", "egret-dashboard")["data"]["egret.json"])
        self.assertEqual(dashboard, json.loads((CHART / "dashboards" / "egret.json").read_text()))
        self.assertEqual(len({panel["id"] for panel in dashboard["panels"]}), len(dashboard["panels"]))
        taken = collections.Counter()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24, panel["title"])
            taken.update((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))
        self.assertEqual({place for place, times in taken.items() if times > 1}, set())


    def test_alerts_are_those_of_the_rules_file_with_the_changes_that_values_ask_for(self):
        written = yaml.safe_load((CHART / "rules" / "egret.yaml").read_text())["groups"][0]["rules"]
        expected = []
        for rule in written:
            if rule["alert"] == "EgretStartGuardDrops":
                continue
            if rule["alert"] == "EgretGitUnreachable":
                rule |= {"expr": rule["expr"].replace("> 600", "> 1800"), "for": "5m", "labels": {"severity": "critical"}}
            page = rule["annotations"]["runbook"].removeprefix("docs/runbooks/")
            rule["annotations"]["runbook_url"] = f"https://git.example/egret/blob/main/docs/runbooks/{page}"
            expected.append(rule)
        (group,) = named("extras", "PrometheusRule", "egret")["spec"]["groups"]
        self.assertEqual(group, {"name": "egret", "rules": expected})
        for case in CASES:
            self.assertEqual(len(of_kind(case, "PrometheusRule")), case == "extras", case)

    def test_who_may_view_may_read_egrets_resources_and_nothing_else(self):
        role = named("default", "ClusterRole", "egret-view")
        aggregated = {key.rsplit("-", 1)[1] for key in role["metadata"]["labels"] if "aggregate-to" in key}
        self.assertEqual(aggregated, {"view", "edit", "admin"})
        names = sorted(one["spec"]["names"]["plural"] for one in crds().values())
        rule = {"apiGroups": ["egret.dev"], "resources": names, "verbs": ["get", "list", "watch"]}
        self.assertEqual([{**one, "resources": sorted(one["resources"])} for one in role["rules"]], [rule])
        self.assertEqual([one for one in of_kind("minimal", "ClusterRole") if one["metadata"]["name"] == "egret-view"], [])

    def test_what_users_add_is_in_the_pods_and_in_nothing_that_removes(self):
        values = yaml.safe_load((CHART / "ci" / "extras.yaml").read_text())
        for component, kind in {"controller": "Deployment", "agent": "DaemonSet"}.items():
            given = values[component]
            pod = named("extras", kind, f"egret-{component}")["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            self.assertEqual(pod["hostAliases"], given["hostAliases"])
            self.assertEqual(pod["dnsConfig"], given["dnsConfig"])
            self.assertEqual(pod["affinity"], given["affinity"])
            for has, wanted in [(container["args"], given["extraArgs"]), (container["env"], given["extraEnv"]),
                                (container["volumeMounts"], given["extraVolumeMounts"]), (pod["volumes"], given["extraVolumes"])]:
                self.assertEqual(has[-len(wanted):], wanted)
        spread = named("extras", "Deployment", "egret-controller")["spec"]["template"]["spec"]["topologySpreadConstraints"]
        self.assertEqual(spread, values["controller"]["topologySpreadConstraints"])
        self.assertEqual(named("extras", "DaemonSet", "egret-agent")["spec"]["updateStrategy"], {"type": "OnDelete"})
        for account in of_kind("extras", "ServiceAccount"):
            self.assertEqual(account["metadata"]["annotations"], values["serviceAccount"]["annotations"])
        for one in objects("extras"):
            if one["kind"] != "CustomResourceDefinition":
                self.assertEqual(one["metadata"]["labels"]["example.com/team"], "network", one["metadata"]["name"])
        code, leaving, errors = helm("template", "--set", "remove=true", case="extras")
        self.assertEqual(code, 0, errors)
        agent = next(one for one in yaml.safe_load_all(leaving) if one and one["kind"] == "DaemonSet")
        self.assertEqual(agent["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "100%", "all pods are replaced")


class Rights(unittest.TestCase):
    def given(self, case, account):
        """What an account may, through every binding that names it."""
        found = {}
        for binding in of_kind(case, "ClusterRoleBinding") + of_kind(case, "RoleBinding"):
            self.assertEqual(len(binding["subjects"]), 1)
            subject = binding["subjects"][0]
            self.assertEqual((subject["kind"], subject["namespace"]), ("ServiceAccount", NAMESPACE))
            if subject["name"] != account:
                continue
            place = f"{binding['metadata']['namespace']}: " if binding["kind"] == "RoleBinding" else ""
            for rule in named(case, binding["roleRef"]["kind"], binding["roleRef"]["name"])["rules"]:
                self.assertEqual(set(rule) - {"apiGroups", "resources", "verbs", "resourceNames"}, set())
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        base, _, sub = resource.partition("/")
                        key = place + base + (f".{group}" if group else "") + (f"/{sub}" if sub else "")
                        for name in rule.get("resourceNames", [""]):
                            found.setdefault(f"{key} {name}".strip(), []).extend(rule["verbs"])
        return {key: sorted(verbs) for key, verbs in found.items()}

    def test_rights_are_those_of_the_written_list(self):
        for case in CASES:
            with self.subTest(case):
                wanted = {"egret-agent": rights.AGENT, "egret-controller": rights.CONTROLLER, "egret-viewer": {}}
                if case == "cni":
                    wanted["egret-controller"] = {**rights.CONTROLLER, **rights.POOLS}
                if case == "remove":
                    wanted["egret-remove"] = rights.REMOVE
                    wanted["egret-agent"] = rights.LEAVING
                accounts = {one["metadata"]["name"] for one in of_kind(case, "ServiceAccount")}
                self.assertEqual({account: self.given(case, account) for account in accounts}, wanted)

    def test_who_may_ask_agents_is_a_role_that_is_bound_to_nobody(self):
        for case in CASES:
            with self.subTest(case):
                self.assertEqual(named(case, "Role", "egret-explain")["rules"], rights.EXPLAIN)
                bound = {one["roleRef"]["name"] for one in of_kind(case, "ClusterRoleBinding") + of_kind(case, "RoleBinding")}
                self.assertNotIn("egret-explain", bound)

    def test_a_token_is_mounted_only_by_pods_that_say_so(self):
        for case in CASES:
            with self.subTest(case):
                accounts = {one["metadata"]["name"]: one for one in of_kind(case, "ServiceAccount")}
                self.assertTrue(all(one["automountServiceAccountToken"] is False for one in accounts.values()))
                for name, template, _ in workloads(case):
                    self.assertIn(template["spec"]["serviceAccountName"], accounts, name)
                    self.assertIs(template["spec"]["automountServiceAccountToken"], True, name)


class Pods(unittest.TestCase):
    def test_every_container_has_as_little_as_it_can(self):
        for case in CASES:
            for name, template, containers in workloads(case):
                for container in containers:
                    with self.subTest(case, workload=name, container=container["name"]):
                        self.contained(template["spec"], container)

    def contained(self, pod, container):
        context = container["securityContext"]
        self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertIs(context["allowPrivilegeEscalation"], False)
        self.assertIs(context["readOnlyRootFilesystem"], True)
        self.assertFalse(context.get("privileged", False))
        self.assertFalse(any(pod.get(key) for key in ("hostPID", "hostIPC", "shareProcessNamespace")))
        ours = pod["serviceAccountName"] == "egret-agent" and container["name"] != "idle"
        capabilities = {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"]} if ours else {"drop": ["ALL"]}
        self.assertEqual(context["capabilities"], capabilities)
        user = {**pod["securityContext"], **context}
        self.assertEqual((user["runAsNonRoot"], user["runAsUser"] != 0), (not ours, not ours))
        self.assertEqual(pod.get("hostNetwork", False), pod["serviceAccountName"] == "egret-agent")
        paths = [volume["hostPath"] for volume in pod.get("volumes", []) if "hostPath" in volume]
        self.assertEqual([path["path"] for path in paths[1:]], ["/proc/sys/net"] if pod.get("hostNetwork") else [])

    def test_what_the_startup_taint_waits_for_bears_it(self):
        for case in CASES:
            for name, template, _ in workloads(case):
                if name.startswith("Job"):
                    continue
                borne = [one for one in template["spec"]["tolerations"] if one.get("key") == "egret.dev/agent-not-ready"]
                self.assertEqual(borne, [{"key": "egret.dev/agent-not-ready", "operator": "Exists"}], f"{case} {name}")

    def test_images_are_pinned(self):
        for case in CASES:
            for name, _, containers in workloads(case):
                for container in containers:
                    self.assertRegex(container["image"], r"[^/]:[\w.-]+$|@sha256:[0-9a-f]{64}$", f"{case} {name}")
                    self.assertNotRegex(container["image"], r":latest$", f"{case} {name}")

    def test_the_datapath_outlives_its_agent(self):
        for case in CASES:
            agent = named(case, "DaemonSet", "egret-agent")["spec"]
            if agent["updateStrategy"]["type"] == "RollingUpdate":
                self.assertEqual(agent["updateStrategy"]["rollingUpdate"]["maxSurge"], 0)
            pod = agent["template"]["spec"]
            self.assertLessEqual(pod["terminationGracePeriodSeconds"], 10)
            self.assertEqual(pod["dnsPolicy"], "ClusterFirstWithHostNet")
            for container in pod["containers"]:
                self.assertNotIn("lifecycle", container, "nothing is cleaned up when an agent ends")

    def test_selectors_find_what_they_are_for(self):
        for case in CASES:
            with self.subTest(case):
                pods = {name: template["metadata"]["labels"] for name, template, _ in workloads(case)}
                for one in objects(case):
                    selector = self.selector_of(one)
                    if selector is None:
                        continue
                    found = [name for name, labels in pods.items() if selector.items() <= labels.items()]
                    component = one["metadata"]["labels"]["app.kubernetes.io/component"]
                    wanted = {"controller": "Deployment egret-controller", "agent": "DaemonSet egret-agent"}[component]
                    self.assertEqual(found, [wanted], f"{one['kind']} {one['metadata']['name']}")

    def selector_of(self, one):
        spec = one.get("spec", {})
        if one["kind"] == "NetworkPolicy":
            return spec["podSelector"]["matchLabels"]
        if one["kind"] == "Service":
            return spec["selector"]
        return spec["selector"]["matchLabels"] if "selector" in spec and one["kind"] != "Job" else None

    def test_ports_volumes_and_probes_belong_together(self):
        for case in CASES:
            for name, template, containers in workloads(case):
                volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
                mounted = {mount["name"] for one in containers for mount in one.get("volumeMounts", [])}
                self.assertEqual(volumes, mounted, f"{case} {name}")
                for container in containers:
                    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
                    probes = [container[key] for key in container if key.endswith("Probe")]
                    self.assertTrue(all(probe["httpGet"]["port"] in ports for probe in probes), f"{case} {name}")
                    listen = [word for word in container.get("args", []) if word.startswith(("--listen=", "--webhook=", "--ui="))]
                    self.assertEqual({int(word.rsplit(":", 1)[1]) for word in listen}, set(ports.values()))

    def test_what_is_mounted_is_where_the_arguments_say(self):
        for case in CASES:
            for name, template, containers in workloads(case):
                for container in containers:
                    places = tuple(mount["mountPath"] for mount in container.get("volumeMounts", []))
                    for word in container.get("args", []):
                        path = word.partition("=")[2]
                        if path.startswith("/"):
                            self.assertTrue(path.startswith(places), f"{case} {name}: {word}")

    def test_git_is_reached_at_its_port(self):
        ports = {"default": 443, "ssh": 2222, "https-token": 8443, "remove": 22}
        for case, port in ports.items():
            rules = named(case, "NetworkPolicy", "egret-controller")["spec"]["egress"]
            self.assertEqual(rules[2]["ports"], [{"port": port, "protocol": "TCP"}], case)

    def test_a_proxy_is_reached_at_its_port_and_nothing_else_is_added(self):
        for case, port in {"https-token": 3129, "webhook": 8080, "default": None}.items():
            rules = named(case, "NetworkPolicy", "egret-controller")["spec"]["egress"]
            found = rules[3]["ports"] if len(rules) > 3 else None
            self.assertEqual(found, port and [{"port": port, "protocol": "TCP"}], case)

    def test_the_page_is_reached_only_by_those_who_are_named(self):
        ingress = named("ui", "NetworkPolicy", "egret-controller")["spec"]["ingress"]
        self.assertEqual([(rule["ports"][0]["port"], "from" in rule) for rule in ingress], [(9090, False), (9192, True)])
        service = named("ui", "Service", "egret-ui")["spec"]
        self.assertEqual((service["type"], service["ports"][0]["port"]), ("ClusterIP", 8080))
        code, without, errors = helm("template", "--set", "controller.ui.enabled=true", "--show-only", "templates/networkpolicy.yaml", case="default")
        self.assertEqual((code, errors), (0, ""))
        self.assertNotIn("9092", without)

    def test_webhooks_come_to_the_controllers_port_through_a_service_of_their_own(self):
        service = named("webhook", "Service", "egret-webhook")["spec"]
        self.assertEqual(service["type"], "LoadBalancer")
        self.assertEqual(service["ports"], [{"name": "webhook", "port": 8443, "targetPort": "webhook", "protocol": "TCP"}])
        (container,) = named("webhook", "Deployment", "egret-controller")["spec"]["template"]["spec"]["containers"]
        self.assertIn({"name": "webhook", "containerPort": 8099, "protocol": "TCP"}, container["ports"])
        ingress = named("webhook", "NetworkPolicy", "egret-controller")["spec"]["ingress"]
        self.assertEqual([rule["ports"][0]["port"] for rule in ingress], [9090, 8099])
        self.assertIn("from", ingress[1])
        for case in CASES:
            if case != "webhook":
                self.assertEqual([one for one in of_kind(case, "Service") if one["metadata"]["name"] == "egret-webhook"], [])


    def test_the_forge_is_reached_at_its_port_where_it_is_needed(self):
        rules = {case: named(case, "NetworkPolicy", "egret-controller")["spec"]["egress"]
                 for case in CASES if of_kind(case, "NetworkPolicy")}
        self.assertEqual(len(rules["default"]), 3)
        there = {"ports": [{"port": 8443, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}
        self.assertEqual(rules["previews-app"][3:], [there])
        self.assertEqual(rules["previews-token"][3:], [{"ports": [{"port": 443, "protocol": "TCP"}]}])

    def test_keys_and_tokens_are_mounted_one_by_one(self):
        for case, wanted in {"previews-app": {"app": "private-key.pem"}, "previews-token": {"git": "known_hosts", "forge": "write-token"}}.items():
            volumes = named(case, "Deployment", "egret-controller")["spec"]["template"]["spec"]["volumes"]
            secrets = {one["name"]: one["secret"]["items"][-1]["key"] for one in volumes if "secret" in one}
            self.assertEqual(secrets, wanted, case)


class Arguments(unittest.TestCase):
    def given(self, *also):
        """(command, flag) of every container, and environment variables of ours. What users add is in `extras`."""
        for case in [one for one in CASES if one != "extras"] + list(also):
            for _, _, containers in workloads(case):
                for container in containers:
                    if "args" in container:
                        command, *words = container["args"]
                        for word in words:
                            self.assertTrue(word.startswith("--"), word)
                            yield command, word.partition("=")[0]
                        for variable in container["env"]:
                            if variable["name"].startswith("EGRET_"):
                                yield command, variable["name"]

    def test_arguments_are_those_of_the_written_list(self):
        found = {}
        for command, word in self.given():
            if word.startswith("--"):
                found.setdefault(command, set()).add(word)
        self.assertEqual(found, rights.FLAGS)

    def test_the_program_knows_every_argument(self):
        built = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "egret"
        program = pathlib.Path(os.environ.get("EGRET_BIN", built))
        if not program.exists():
            self.skipTest(f"{program} is not built")
        for command in rights.FLAGS:
            said = subprocess.run([program, command, "--help"], capture_output=True, text=True)
            if said.returncode != 0:
                self.skipTest(f"{program} has no `{command}` yet")
            unknown = {word for of, word in self.given("extras") if of == command and not re.search(rf"{word}\b", said.stdout)}
            self.assertEqual(unknown, set(), f"egret {command} --help")
