// The schema of CiliumEgressGatewayPolicy in schema.json, from the npm package @kubernetes-models/cilium. `make cilium-schema` runs it.
//
//   node schema.mjs PACKAGE > schema.json        writes the schema; PACKAGE is the folder of the unpacked package
//   node schema.mjs PACKAGE specs.jsonl          compares the package's own validators with verdicts of the schema:
//                                                a line has {"spec": …, "valid": true|false}
//
// The package has compiled validators and no schemas. Required fields are found by asking them, patterns and formats are
// read from their sources, and the types of fields stand here.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, specs] = process.argv.slice(2);
const V2 = "ComGithubCiliumCiliumPkgK8sApisCiliumIoV2";
const META = "ComGithubCiliumCiliumPkgK8sSlimK8sApisMetaV1";
const path = (name) => resolve(join(folder, "_schemas", `${name}.js`));
const validator = async (name) => (await import(pathToFileURL(path(name)))).validate;

async function required(name) {
  const validate = await validator(name);
  validate({});
  return (validate.errors ?? []).filter((error) => error.keyword === "required").map((error) => error.params.missingProperty);
}

function literal(name, expression) {
  const found = readFileSync(path(name), "utf8").match(expression);
  if (!found) throw new Error(`${name} has no ${expression}`);
  return JSON.parse(found[1]);
}

const pattern = (name) => literal(name, /RegExp\(("(?:[^"\\]|\\.)*")/);
const list = (items) => ({ type: "array", items });
const text = (more = {}) => ({ type: "string", ...more });
const object = (properties, required = []) => ({ type: "object", properties, ...(required.length ? { required } : {}) });

async function schema() {
  const cidr = text({ pattern: pattern(`${V2}CIDR`) });
  const value = text({ maxLength: 63, pattern: pattern(`${META}MatchLabelsValue`) });
  const operators = literal(`${META}LabelSelectorRequirement`, /schema\d+_enum=(\[[^\]]*\])/);
  const requirement = object(
    { key: text(), operator: text({ enum: operators }), values: list(text()) },
    await required(`${META}LabelSelectorRequirement`),
  );
  const selector = object({
    matchLabels: { type: "object", additionalProperties: value },
    matchExpressions: list(requirement),
  });
  const format = literal(`${V2}EgressGateway`, /format:("[^"]*")/);
  const gateway = object(
    { nodeSelector: selector, interface: text(), egressIP: text({ format }) },
    await required(`${V2}EgressGateway`),
  );
  const rule = object({ namespaceSelector: selector, podSelector: selector, nodeSelector: selector });
  const spec = object(
    {
      selectors: list(rule),
      destinationCIDRs: list(cidr),
      excludedCIDRs: list(cidr),
      egressGateway: gateway,
      egressGateways: list(gateway),
    },
    await required(`${V2}CiliumEgressGatewayPolicySpec`),
  );
  return object({ apiVersion: text(), kind: text(), metadata: { type: "object" }, spec }, ["metadata"]);
}

if (specs) {
  const validate = await validator(`${V2}CiliumEgressGatewayPolicySpec`);
  let lines = 0, different = 0;
  for (const line of readFileSync(specs, "utf8").split("\n").filter(Boolean)) {
    const { spec, valid } = JSON.parse(line);
    lines += 1;
    if (validate(spec) !== valid) {
      different += 1;
      console.log(JSON.stringify({ valid, spec, errors: validate.errors }));
    }
  }
  console.error(`${lines} documents, ${different} with another verdict`);
  process.exitCode = different ? 1 : 0;
} else {
  console.log(JSON.stringify(await schema(), null, 1));
}
