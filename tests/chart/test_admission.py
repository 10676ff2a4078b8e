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
        given = {"old": target} if operation == "DELETE" else {"object": target}
        return decide(self.policy, {"userInfo": who, "operation": operation}, **given)

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
            self.assertEqual(policies, set() if case == "minimal" else {"egret-agent", "egret-controller"})


class Controller(unittest.TestCase):
    def ask(self, who, **changes):
        old = {"metadata": {"name": "kind-worker2", "labels": {}, "annotations": {"a": "b"}}, "spec": {"podCIDR": "10.1.0.0/24"}}
        new = {"metadata": {**old["metadata"], **changes.get("metadata", {})}, "spec": changes.get("spec", old["spec"])}
        policy = named("default", "ValidatingAdmissionPolicy", "egret-controller")
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
