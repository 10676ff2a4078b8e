"""The admission policies, with requests as an API server makes them: whose are let through and what the others are told."""

import unittest

import yaml

from structural import evaluate
from tools import CASES, NAMESPACE, SAMPLES, helm, named, of_kind

NODE_NAME = "authentication.kubernetes.io/node-name"


def decide(policy, request, object=None, old=None):
    """None if it is let through, else the message."""
    spec = policy["spec"]
    known = {"request": request, "object": object, "oldObject": old}
    if not all(evaluate(one["expression"], **known) is True for one in spec["matchConditions"]):
        return None
    variables = {}
    for one in spec.get("variables", []):
        variables[one["name"]] = evaluate(one["expression"], variables=variables, **known)
    for rule in spec["validations"]:
        if evaluate(rule["expression"], variables=variables, **known) is not True:
            said = rule.get("messageExpression")
            return evaluate(said, variables=variables, **known) if said else rule["message"]
    return None


def user(account, node=None):
    extra = {"authentication.kubernetes.io/pod-name": ["some"]}
    if node:
        extra[NODE_NAME] = [node]
    return {"username": f"system:serviceaccount:{NAMESPACE}:{account}", "extra": extra}


class Agent(unittest.TestCase):
    def setUp(self):
        self.policy = named("default", "ValidatingAdmissionPolicy", "egret-agent")
        self.own = {"metadata": {"name": "kind-worker"}}
        self.other = {"metadata": {"name": "kind-worker2"}}

    def ask(self, who, operation, target):
        old, new = (None if operation == none else target for none in ("CREATE", "DELETE"))
        return decide(self.policy, {"userInfo": who, "operation": operation}, object=new, old=old)

    def test_an_agent_writes_its_own_node(self):
        for operation in ("CREATE", "UPDATE", "DELETE"):
            self.assertIsNone(self.ask(user("egret-agent", "kind-worker"), operation, self.own))

    def test_an_agent_writes_no_other_node(self):
        for operation in ("CREATE", "UPDATE", "DELETE"):
            said = self.ask(user("egret-agent", "kind-worker"), operation, self.other)
            self.assertEqual(said, "the agent of node kind-worker may not write the EgressNode kind-worker2")

    def test_a_token_that_names_no_node_is_refused(self):
        for who in (user("egret-agent"), {"username": user("egret-agent")["username"]}):
            self.assertIn("does not say on which node it runs", self.ask(who, "UPDATE", self.own))

    def test_others_are_none_of_its_business(self):
        self.assertIsNone(self.ask(user("egret-controller", "kind-worker"), "DELETE", self.other))
        self.assertIsNone(self.ask({"username": "admin"}, "DELETE", self.other))

    def test_it_covers_status_and_fails_closed(self):
        spec = self.policy["spec"]
        self.assertEqual(spec["failurePolicy"], "Fail")
        (rule,) = spec["matchConstraints"]["resourceRules"]
        self.assertEqual(rule["resources"], ["egressnodes", "egressnodes/status"])
        self.assertEqual(rule["operations"], ["CREATE", "UPDATE", "DELETE"])

    def test_every_policy_is_bound_and_denies(self):
        for case in CASES:
            policies = {one["metadata"]["name"] for one in of_kind(case, "ValidatingAdmissionPolicy")}
            bindings = of_kind(case, "ValidatingAdmissionPolicyBinding")
            self.assertEqual({one["spec"]["policyName"] for one in bindings}, policies)
            self.assertTrue(all(one["spec"]["validationActions"] == ["Deny"] for one in bindings))
            self.assertEqual(policies, set() if case == "minimal" else {"egret-agent", "egret-controller", "egret-events", "egret-heartbeat"})


    def change(self, operation="UPDATE", before=None, after=None):
        """What an agent is told that changes metadata of its own EgressNode."""
        old = {"metadata": {"name": "kind-worker", **(before or {})}} if operation == "UPDATE" else None
        new = {"metadata": {"name": "kind-worker", **(after or {})}}
        request = {"userInfo": user("egret-agent", "kind-worker"), "operation": operation}
        return decide(self.policy, request, object=new, old=old) or ""

    def test_of_its_own_it_writes_the_label_of_gateways_and_the_owner(self):
        owner = {"apiVersion": "v1", "kind": "Node", "name": "kind-worker", "uid": "1"}
        gateway = {"egret.dev/gateway": "true"}
        for operation in ("CREATE", "UPDATE"):
            self.assertEqual(self.change(operation, after={"labels": gateway, "ownerReferences": [owner]}), "")
            for what, after in {
                "no other": {"labels": {**gateway, "app": "x"}},
                "no annotation": {"annotations": {"a": "b"}},
                "no finalizer": {"finalizers": ["egret.dev/x"]},
                "is the Node of its name": {"ownerReferences": [{**owner, "name": "kind-worker2"}]},
            }.items():
                self.assertIn(what, self.change(operation, after=after), (operation, after))
            self.assertIn("is the Node", self.change(operation, after={"ownerReferences": [{**owner, "kind": "Pod"}]}))
        self.assertEqual(self.change(before={"labels": gateway}), "")

    def test_what_administrators_put_there_stays_and_is_in_nobodys_way(self):
        theirs = {"labels": {"team": "a"}, "annotations": {"b": "c"}, "finalizers": ["example.com/d"]}
        self.assertEqual(self.change(before=theirs, after=theirs), "")
        for what in theirs:
            self.assertNotEqual(self.change(before=theirs, after={key: value for key, value in theirs.items() if key != what}), "", what)
        request = {"userInfo": user("egret-agent", "kind-worker"), "operation": "DELETE"}
        self.assertIsNone(decide(self.policy, request, old={"metadata": {"name": "kind-worker", **theirs}}))


class Events(unittest.TestCase):
    def ask(self, account, new, old=None, node="kind-worker"):
        policy = named("default", "ValidatingAdmissionPolicy", "egret-events")
        request = {"userInfo": user(account, node), "operation": "UPDATE" if old else "CREATE"}
        return decide(policy, request, object=new, old=old) or ""

    def event(self, reporter, kind="Node", name="kind-worker"):
        return {"reportingController": reporter, "regarding": {"kind": kind, "name": name}}

    def test_both_write_their_own(self):
        agent, controller = self.event("egret.dev/agent"), self.event("egret.dev/controller", "EgressConfig", "default")
        for old in (None, agent):
            self.assertEqual(self.ask("egret-agent", agent, old), "")
        for old in (None, controller):
            self.assertEqual(self.ask("egret-controller", controller, old), "")
        self.assertEqual(self.ask("kubelet", self.event("kubelet")), "")

    def test_nobody_writes_for_another(self):
        agent, controller, kubelet = (self.event(one) for one in ("egret.dev/agent", "egret.dev/controller", "kubelet"))
        for account, new, old in (
            ("egret-agent", kubelet, None), ("egret-agent", controller, None), ("egret-controller", agent, None),
            ("egret-agent", agent, kubelet), ("egret-controller", controller, kubelet), ("egret-controller", controller, agent),
        ):
            self.assertIn("its own events", self.ask(account, new, old))

    def test_an_agent_writes_about_its_node_alone(self):
        own, other = self.event("egret.dev/agent"), self.event("egret.dev/agent", name="kind-worker2")
        self.assertIn("its own node", self.ask("egret-agent", other))
        self.assertIn("its own node", self.ask("egret-agent", self.event("egret.dev/agent", "Pod")))
        self.assertIn("its own node", self.ask("egret-agent", own, node=None))
        self.assertIn("continues events about its own node", self.ask("egret-agent", own, other))


OURS = {"key": "egret.dev/agent-not-ready", "effect": "NoExecute", "timeAdded": "2026-11-22T19:56:38Z"}
THEIRS = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}


class Controller(unittest.TestCase):
    def ask(self, who, case="default", before=None, **changes):
        spec = before or {"podCIDR": "10.1.0.0/24"}
        old = {"metadata": {"name": "kind-worker2", "labels": {}, "annotations": {"a": "b"}}, "spec": spec}
        new = {"metadata": {**old["metadata"], **changes.get("metadata", {})}, "spec": changes.get("spec", old["spec"])}
        policy = named(case, "ValidatingAdmissionPolicy", "egret-controller")
        return decide(policy, {"userInfo": who, "operation": "UPDATE"}, object=new, old=old)

    def test_it_changes_labels(self):
        for account in ("egret-controller", "egret-remove"):
            self.assertIsNone(self.ask(user(account), metadata={"labels": {"egress-gw": "true"}}))

    def test_it_changes_nothing_else_of_a_node(self):
        for what, change in {
            "spec": {"spec": {"podCIDR": "10.1.0.0/24", "unschedulable": True}},
            "annotations": {"metadata": {"annotations": {"a": "c"}}},
            "owners": {"metadata": {"ownerReferences": [{"uid": "1"}]}},
            "finalizers": {"metadata": {"finalizers": ["egret.dev/x"]}},
        }.items():
            self.assertIn(what, self.ask(user("egret-controller"), **change) or "", what)

    def taints(self, before, after, case="default", **more):
        specs = [{"podCIDR": "10.1.0.0/24", **({"taints": taints} if taints else {})} for taints in (before, after)]
        return self.ask(user("egret-controller"), case=case, before=specs[0], spec={**specs[1], **more})

    def test_it_takes_its_own_taint_off(self):
        soft = {**OURS, "effect": "NoSchedule"}
        self.assertIsNone(self.taints([OURS], []))
        self.assertIsNone(self.taints([THEIRS, OURS], [THEIRS]))
        self.assertIsNone(self.taints([OURS, THEIRS, soft], [THEIRS]))
        self.assertIsNone(self.taints([THEIRS, OURS], [THEIRS, OURS]), "labels of a node that has it")

    def test_it_touches_no_other_taint_and_nothing_beside_it(self):
        second = {**THEIRS, "key": "other"}
        for what, (before, after) in {
            "another taint goes": ([THEIRS, OURS], [OURS]),
            "another goes with it": ([THEIRS, OURS], []),
            "the last of others goes": ([THEIRS], []),
            "one is put on": ([], [THEIRS]),
            "its own is put on": ([], [OURS]),
            "another takes its place": ([OURS], [THEIRS]),
            "it changes": ([OURS], [{**OURS, "effect": "NoSchedule"}]),
            "others change their order": ([THEIRS, OURS, second], [second, THEIRS]),
            "another becomes weaker": ([THEIRS, OURS], [{**THEIRS, "effect": "PreferNoSchedule"}]),
        }.items():
            self.assertIn("touches no other", self.taints(before, after) or "", what)
        for what, more in {
            "cordoned": {"unschedulable": True},
            "another network": {"podCIDR": "10.2.0.0/24"},
            "a field that nobody knows yet": {"rescue": "me"},
        }.items():
            self.assertIn("not their spec", self.taints([OURS], [], **more) or "", what)
        gone = self.ask(user("egret-controller"), before={"podCIDR": "10.1.0.0/24", "taints": [OURS]}, spec={})
        self.assertIn("not their spec", gone)

    def test_it_takes_none_off_where_nobody_wants_that(self):
        self.assertIn("not their spec", self.taints([OURS], [], case="cni"))
        self.assertIsNone(self.ask(user("egret-controller"), case="cni", metadata={"labels": {"egress-gw": "true"}}))

    def test_of_labels_it_changes_those_that_are_allowed(self):
        def labels(old, new, case="default"):
            policy = named(case, "ValidatingAdmissionPolicy", "egret-controller")
            old, new = ({"metadata": {"name": "kind-worker2", **({"labels": one} if one else {})}} for one in (old, new))
            request = {"userInfo": user("egret-controller"), "operation": "UPDATE"}
            return decide(policy, request, object=new, old=old) or ""

        role = "node-role.kubernetes.io/control-plane"
        self.assertEqual(labels({role: ""}, {role: "", "egress-gw": "true"}), "", "what is there and stays is not looked at")
        self.assertEqual(labels({"egress-gw": "true", "a": "b"}, {"egress-gw": "false"}), "")
        self.assertEqual(labels({"egress-gw": "true"}, {}), "")
        for old, new in (({}, {role: ""}), ({role: "a"}, {role: "b"}), ({role: ""}, {}), ({"a": "b", role: ""}, {"a": "b"})):
            self.assertIn(f"Egret may not change the label {role} of a node", labels(old, new), (old, new))
        self.assertEqual(labels({}, {"egress-gw": "true", "egress.example.com/a": "b"}, "ssh"), "")
        self.assertIn("may not change the label rack", labels({}, {"rack": "r1", "egress-gw": "true"}, "ssh"))

    def test_its_rule_about_keys_is_the_program_s(self):
        lines = (SAMPLES / "label_keys.txt").read_text().splitlines()
        cases = [line.split() for line in lines if line and not line.startswith("#")]
        rules = {}
        for allowed in {allowed for allowed, _, _ in cases}:
            keys = [] if allowed == "-" else allowed.split(",")
            words = [word for place, key in enumerate(keys) for word in ("--set", f"nodeLabels.allowedKeys[{place}]={key}")]
            code, output, errors = helm("template", *words, case="default")
            self.assertEqual(code, 0, errors)
            objects = [one for one in yaml.safe_load_all(output) if one]
            (rules[allowed],) = (one for one in objects if one["kind"] == "ValidatingAdmissionPolicy" and one["metadata"]["name"] == "egret-controller")
        for allowed, key, answer in cases:
            request = {"userInfo": user("egret-controller"), "operation": "UPDATE"}
            old, new = {"metadata": {"name": "a"}}, {"metadata": {"name": "a", "labels": {key: "x"}}}
            self.assertEqual(decide(rules[allowed], request, object=new, old=old) is None, answer == "yes", (allowed, key))

    def test_others_may(self):
        self.assertIsNone(self.ask({"username": "system:node:kind-worker2"}, spec={"unschedulable": True}))
