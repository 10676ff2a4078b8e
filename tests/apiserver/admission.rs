//! ValidatingAdmissionPolicies: who may write what, by the expressions in the store.
//!
//! They hold from the moment they are written; the real server needs one more. Deliberately absent: parameters, audit annotations, warnings,
//! selectors of namespaces and objects, and types: an expression that the real server refuses to compile may run here.

use serde_json::{Value, json};

use super::cel::Scope;
use super::rbac::User;
use super::resource::Target;
use super::status::{self, Outcome};
use super::store::Key;
use super::world::World;

const GROUP: &str = "admissionregistration.k8s.io";

/// A write that is looked at: `CREATE`, `UPDATE` or `DELETE`, of this object in the place of that one; null where there is none.
#[derive(Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) operation: &'a str,
    pub(crate) object: &'a Value,
    pub(crate) old: &'a Value,
}

/// Refuses what some bound policy denies.
pub(crate) fn validate(world: &mut World, user: &User, target: &Target, write: Write<'_>) -> Outcome<()> {
    for binding in world.store.list(&format!("validatingadmissionpolicybindings.{GROUP}"), "").into_values() {
        let actions = binding["spec"]["validationActions"].as_array();
        if !actions.is_some_and(|actions| actions.iter().any(|action| action == "Deny")) {
            continue;
        }
        let name = binding["spec"]["policyName"].as_str().unwrap_or_default();
        let policy = world.store.get(&Key::new(&format!("validatingadmissionpolicies.{GROUP}"), "", name));
        let Some(policy) = policy.filter(|policy| is_meant(&policy["spec"], target, write.operation)) else { continue };
        let denied = denied(&policy["spec"], user, target, write);
        if let Some((reason, message)) = world.known(denied)? {
            let bound = binding["metadata"]["name"].as_str().unwrap_or_default();
            let why = format!("ValidatingAdmissionPolicy '{name}' with binding '{bound}' denied request: {message}");
            let mut refusal = status::forbidden(target.resource.named(&target.name), &why);
            if reason != "Forbidden" {
                refusal.code = 422;
                refusal.body["code"] = json!(422);
                refusal.body["reason"] = json!("Invalid");
            }
            return Err(refusal);
        }
    }
    Ok(())
}

/// Whether a policy is about this resource and operation.
fn is_meant(spec: &Value, target: &Target, operation: &str) -> bool {
    let resource = match target.subresource.as_str() {
        "" => target.resource.plural.clone(),
        subresource => format!("{}/{subresource}", target.resource.plural),
    };
    let rules = spec["matchConstraints"]["resourceRules"].as_array();
    rules.into_iter().flatten().any(|rule| {
        let has = |field: &str, wanted: &str| {
            rule[field].as_array().is_some_and(|list| list.iter().any(|one| one == wanted || one == "*"))
        };
        has("apiGroups", &target.resource.group)
            && has("apiVersions", &target.resource.version)
            && has("operations", operation)
            && has("resources", &resource)
    })
}

/// The reason and the message of the first validation that does not hold.
fn denied(spec: &Value, user: &User, target: &Target, write: Write<'_>) -> Result<Option<(String, String)>, String> {
    let request = json!({
        "userInfo": user.info(), "operation": write.operation, "name": target.name, "namespace": target.namespace,
    });
    let mut scope = Scope::new(&[("request", &request), ("object", write.object), ("oldObject", write.old)]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
    for condition in list("matchConditions") {
        if !scope.holds(&text(&condition["expression"]))? {
            return Ok(None);
        }
    }
    for variable in list("variables") {
        scope.define(&text(&variable["name"]), &text(&variable["expression"]))?;
    }
    for validation in list("validations") {
        if scope.holds(&text(&validation["expression"]))? {
            continue;
        }
        let message = match validation["messageExpression"].as_str() {
            Some(expression) => scope.text(expression).unwrap_or_else(|_| text(&validation["message"])),
            None => text(&validation["message"]),
        };
        return Ok(Some((text(&validation["reason"]), message)));
    }
    Ok(None)
}
