"""A custom object against its definition, as an API server looks at it: schema, then CEL rules.

Absent: defaulting, and the server's exact reckoning of CEL costs. What is not in a schema is refused here; a server would drop it.
"""

import datetime
import ipaddress

import cel
import jsonschema


def strict(schema, root=True):
    """The schema as JSON Schema, with every field that it doesn't name refused."""
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if "properties" in schema or schema.get("type") == "object" and "additionalProperties" not in schema:
        fields = {key: strict(value, False) for key, value in schema.get("properties", {}).items()}
        if root:
            # The server's own.
            fields["metadata"] = {"type": "object"}
        made["properties"] = fields
        made["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(schema["additionalProperties"], False)
    if "items" in schema:
        made["items"] = strict(schema["items"], False)
    return made


FORMATS = jsonschema.FormatChecker(formats=[])


@FORMATS.checks("date-time", raises=ValueError)
def is_time(value):
    return not isinstance(value, str) or datetime.datetime.fromisoformat(value).tzinfo is not None


@FORMATS.checks("int32")
def is_int32(value):
    return not isinstance(value, int) or -(2**31) <= value < 2**31


@FORMATS.checks("int64")
def is_int64(value):
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def is_ip(value):
    try:
        return ipaddress.ip_address(value) is not None and "%" not in value
    except ValueError:
        return False


def is_cidr(value):
    try:
        return "/" in value and ipaddress.ip_interface(value) is not None and value.split("/")[1].isdigit()
    except ValueError:
        return False


def evaluate(expression, **variables):
    """A CEL expression's value."""
    context = cel.Context()
    for name, value in variables.items():
        context.add_variable(name, value)
    context.add_function("isIP", is_ip)
    context.add_function("isCIDR", is_cidr)
    return cel.evaluate(expression, context)


def broken(schema, value, old=None, place=""):
    """Messages of the rules that don't hold, here and below."""
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"]:
            if old is not None and evaluate(rule["rule"], self=value, oldSelf=old) is not True:
                yield f"{place}{rule.get('fieldPath', '')}: {rule['message']}"
        elif evaluate(rule["rule"], self=value) is not True:
            yield f"{place}: {rule['message']}"
    if isinstance(value, dict):
        for key, inner in value.items():
            below = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if isinstance(below, dict):
                yield from broken(below, inner, (old or {}).get(key), f"{place}.{key}")
    elif isinstance(value, list) and "items" in schema:
        for index, inner in enumerate(value):
            # Items of an atomic list have no old ones to be compared with.
            yield from broken(schema["items"], inner, None, f"{place}[{index}]")


def faults(definition, value, old=None):
    """All that is wrong with an object; nothing if a server would take it."""
    (version,) = definition["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    validator = jsonschema.Draft202012Validator(strict(schema), format_checker=FORMATS)
    found = [f".{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(value)]
    return found or list(broken(schema, value, old))


def walk(schema, place="", times=1):
    """Every schema below, with its place and how often it can occur."""
    yield place, schema, times
    for key, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{place}.{key}", times)
    if "items" in schema:
        yield from walk(schema["items"], f"{place}[]", times * schema.get("maxItems", 10**9))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from walk(schema["additionalProperties"], f"{place}{{}}", times * schema.get("maxProperties", 10**9))
