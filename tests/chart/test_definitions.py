"""The custom resources: whether their definitions are sound, and what they take and refuse."""

import copy
import re
import unittest

import yaml

from structural import faults, walk
from tools import CHART, SAMPLES, crds, run

# kube-apiserver: apiextensions-apiserver/pkg/apiserver/schema/cel, StaticEstimatedCostLimit and StaticEstimatedCRDCostLimit.
COST_OF_RULE = 10_000_000
COST_OF_DEFINITION = 100_000_000


def schema_of(definition):
    (version,) = definition["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


class Definitions(unittest.TestCase):
    def test_there_are_three_all_cluster_scoped_with_status_and_short_names(self):
        found = {
            kind: (one["metadata"]["name"], one["spec"]["names"]["shortNames"], one["spec"]["scope"])
            for kind, one in crds().items()
        }
        self.assertEqual(
            found,
            {
                "EgressConfig": ("egressconfigs.egret.dev", ["egc"], "Cluster"),
                "EgressNode": ("egressnodes.egret.dev", ["egn"], "Cluster"),
                "PublishedEgressPolicy": ("publishedegresspolicies.egret.dev", ["egp"], "Cluster"),
            },
        )
        for one in crds().values():
            names, (version,) = one["spec"]["names"], one["spec"]["versions"]
            self.assertEqual(one["metadata"]["name"], f"{names['plural']}.{one['spec']['group']}")
            self.assertEqual((version["name"], version["served"], version["storage"]), ("v1alpha1", True, True))
            self.assertEqual(version["subresources"], {"status": {}})

    def test_every_list_map_and_text_is_bounded(self):
        unbounded = []
        for kind, definition in crds().items():
            for place, schema, _ in walk(schema_of(definition)):
                bound = {"string": "maxLength", "array": "maxItems"}.get(schema.get("type"))
                if "additionalProperties" in schema:
                    bound = "maxProperties"
                free = place in (".apiVersion", ".kind") or schema.get("format") == "date-time" or "enum" in schema
                if bound and bound not in schema and not free:
                    unbounded.append(f"{kind}{place}")
        self.assertEqual(unbounded, [])

    def test_every_schema_is_structural_and_drops_what_it_does_not_name(self):
        wrong = []
        for kind, definition in crds().items():
            for place, schema, _ in walk(schema_of(definition)):
                if "type" not in schema:
                    wrong.append(f"{kind}{place} has no type")
                if any(key in schema for key in ("x-kubernetes-preserve-unknown-fields", "$ref", "anyOf", "oneOf")):
                    wrong.append(f"{kind}{place} is not strict")
                missing = set(schema.get("required", [])) - set(schema.get("properties", {}))
                if missing:
                    wrong.append(f"{kind}{place} needs {missing}, which it does not have")
                if schema.get("x-kubernetes-list-type") == "map":
                    keys = set(schema["x-kubernetes-list-map-keys"])
                    if not keys <= set(schema["items"]["required"]):
                        wrong.append(f"{kind}{place} has keys that may be absent")
                if "pattern" in schema:
                    re.compile(schema["pattern"])
        self.assertEqual(wrong, [])

    def test_rules_stay_far_within_the_cost_budget(self):
        for kind, definition in crds().items():
            whole = 0
            for place, schema, times in walk(schema_of(definition)):
                for rule in schema.get("x-kubernetes-validations", []):
                    # A call or comparison is one or two, a literal list ten, and a character that is read a tenth.
                    cost = times * (5 + 4 * len(re.findall(r"[a-z]+[(]|[&|]{2}|[=!><]=| in ", rule["rule"])) + 10 * rule["rule"].count("[")
                                    + schema.get("maxLength", 0) // 10)
                    self.assertLess(cost, COST_OF_RULE / 2, f"{kind}{place}: {rule['rule']}")
                    whole += cost
                    self.assertRegex(rule["message"], r"^[a-zA-Z].{15,}", f"{kind}{place}: a message that explains")
            self.assertLess(whole, COST_OF_DEFINITION / 2, kind)

    def test_every_printed_column_is_a_field_that_is_there(self):
        for kind, definition in crds().items():
            (version,) = definition["spec"]["versions"]
            for column in version["additionalPrinterColumns"]:
                path = column["jsonPath"]
                if path == ".metadata.creationTimestamp":
                    continue
                schema = schema_of(definition)
                for part in re.sub(r"\[\?\(@\.type==\"[A-Z]\w+\"\)\]", ".[]", path).strip(".").split("."):
                    schema = schema["items"] if part == "[]" else schema["properties"].get(part)
                    self.assertIsNotNone(schema, f"{kind}: {path}")
                self.assertEqual(schema["type"], column["type"], f"{kind}: {path}")

    def test_columns_fit_a_screen_and_begin_with_ready_and_why(self):
        # Values as they are in most clusters: a policy's or a node's name, the longest reason, one gateway, an address of each family.
        longest = {"Name": 20, "Ready": 7, "Reason": 20, "Gateways": 16, "Addresses": 24, "Pods": 5, "Drift": 5, "Nodes": 9, "Up-to-date": 10,
                   "Git": 7, "Accepted": 8, "Revision": 12, "Age": 5}
        for kind, definition in crds().items():
            (version,) = definition["spec"]["versions"]
            columns = version["additionalPrinterColumns"]
            shown = [column["name"] for column in columns if not column.get("priority")]
            self.assertEqual((shown[:2], shown[-1]), (["Ready", "Reason"], "Age"), kind)
            self.assertLess(sum(max(longest[name], len(name)) + 3 for name in ["Name", *shown]), 120, kind)
            for column in columns:
                self.assertNotRegex(column["jsonPath"], "revision$|message|leader|[.]summary", kind)
                if not column.get("priority"):
                    self.assertNotRegex(column["jsonPath"], "file$", kind)
            # With -o wide too, but for the path of a policy's file.
            wide = [column["name"] for column in columns if column["name"] != "File"]
            self.assertLess(sum(max(longest[name], len(name)) + 3 for name in ["Name", *wide]), 130, kind)

    def test_conditions_are_those_of_kubernetes(self):
        # meta/v1 Condition, and status.observedGeneration as kstatus reads it.
        for kind, definition in crds().items():
            status = schema_of(definition)["properties"]["status"]["properties"]
            self.assertEqual(status["observedGeneration"]["type"], "integer", kind)
            condition = status["conditions"]["items"]
            self.assertEqual(
                sorted(condition["properties"]), ["lastTransitionTime", "message", "observedGeneration", "reason", "status", "type"]
            )
            self.assertEqual(condition["required"], ["type", "status", "reason", "message", "lastTransitionTime"])

    def test_kubectl_reads_them(self):
        for path in sorted((CHART / "crds").glob("*.yaml")):
            code, output, errors = run("kubectl", "label", "--local", "-f", str(path), "read=yes", "-o", "name")
            self.assertEqual(code, 0, errors)
            self.assertIn(path.stem, output)


class Samples(unittest.TestCase):
    def test_what_egret_writes_is_taken(self):
        kinds = set()
        for path in sorted((SAMPLES / "good").glob("*.yaml")):
            for sample in yaml.safe_load_all(path.read_text()):
                kinds.add(sample["kind"])
                self.assertEqual(faults(crds()[sample["kind"]], sample), [], path.name)
        self.assertEqual(kinds, set(crds()))

    def test_what_is_wrong_is_refused_with_a_reason(self):
        # Each is a change to a good sample: {of, set: {path: value}, says}.
        for path in sorted((SAMPLES / "bad").glob("*.yaml")):
            for bad in yaml.safe_load(path.read_text()):
                good = yaml.safe_load((SAMPLES / "good" / bad["of"]).read_text())
                changed = copy.deepcopy(good)
                for place, value in bad["set"].items():
                    *way, last = place.split(".")
                    inner = changed
                    for step in way:
                        inner = inner[int(step) if step.isdigit() else step]
                    inner[int(last) if last.isdigit() else last] = value
                found = faults(crds()[changed["kind"]], changed, old=good)
                self.assertTrue(any(bad["says"] in fault for fault in found), f"{bad} was answered {found}")
