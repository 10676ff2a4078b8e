//! Who asks, and what the roles and bindings in the store let them do.
//!
//! Deliberately absent: aggregated roles, escalation checks, and paths that are no resources: those are open to everybody.

use serde_json::{Value, json};

use super::resource::Target;
use super::status::{self, Outcome};
use super::world::World;

/// Somebody with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// As RBAC calls them: `jane`, `system:serviceaccount:NAMESPACE:NAME`.
    pub(crate) name: String,
    /// Their groups.
    pub(crate) groups: Vec<String>,
    /// The node that their token is bound to.
    pub(crate) node: Option<String>,
}

impl User {
    /// A user with the groups that the server itself puts them in.
    pub(crate) fn named(name: &str) -> Self {
        let mut groups = vec!["system:authenticated".to_owned()];
        if let Some(account) = name.strip_prefix("system:serviceaccount:") {
            groups.push("system:serviceaccounts".to_owned());
            groups.extend(account.split_once(':').map(|(namespace, _)| format!("system:serviceaccounts:{namespace}")));
        }
        Self { name: name.to_owned(), groups, node: None }
    }

    /// One who may do everything.
    pub(crate) fn admin(name: &str) -> Self {
        let groups = ["system:masters", "system:authenticated"].map(str::to_owned).to_vec();
        Self { name: name.to_owned(), groups, node: None }
    }

    /// `userInfo`, as reviews and admission policies have it.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if let Some(node) = &self.node {
            info["extra"] = json!({"authentication.kubernetes.io/node-name": [node]});
        }
        info
    }

    fn is_meant(&self, subject: &Value) -> bool {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("User") => self.name == name,
            Some("Group") => self.groups.iter().any(|group| group == name),
            Some("ServiceAccount") => {
                let namespace = subject["namespace"].as_str().unwrap_or_default();
                self.name == format!("system:serviceaccount:{namespace}:{name}")
            }
            _ => false,
        }
    }
}

/// Who asks with this `Authorization`. A server without users lets everybody in.
pub(crate) fn authenticate(world: &World, authorization: Option<&str>) -> Outcome<User> {
    if world.users.is_empty() {
        return Ok(User::admin("admin"));
    }
    let Some(authorization) = authorization else {
        let groups = vec!["system:unauthenticated".to_owned()];
        return Ok(User { name: "system:anonymous".to_owned(), groups, node: None });
    };
    let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
    let found = world.users.get(token).filter(|_| !world.expired.contains(token));
    found.cloned().ok_or_else(status::unauthorized)
}

/// A token for others than the API server: here it counts for nothing but a review.
#[derive(Debug, Clone)]
pub(crate) struct ForeignToken {
    user: User,
    audiences: Vec<String>,
}

/// The audience of the API server itself, as a token has it that was made without any.
const SELF: &str = "https://kubernetes.default.svc.cluster.local";

/// Refuses what no rule lets this user do.
pub(crate) fn authorize(world: &World, user: &User, verb: &str, target: &Target) -> Outcome<()> {
    if user.groups.iter().any(|group| group == "system:masters")
        || rules(world, user, &target.namespace).any(|rule| permits(&rule, verb, target))
    {
        return Ok(());
    }
    let resource = path_of(target);
    let place = if target.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", target.namespace)
    };
    let group = &target.resource.group;
    let why = format!("User {:?} cannot {verb} resource {resource:?} in API group {group:?} {place}", user.name);
    Err(status::forbidden(target.resource.named(&target.name), &why))
}

/// `nodes/status`
fn path_of(target: &Target) -> String {
    let Target { resource, subresource, .. } = target;
    if subresource.is_empty() { resource.plural.clone() } else { format!("{}/{subresource}", resource.plural) }
}

/// The rules that hold for a user, in a namespace or everywhere.
fn rules<'a>(world: &'a World, user: &'a User, namespace: &'a str) -> impl Iterator<Item = Value> + 'a {
    let of = |resource: &str| format!("{resource}.rbac.authorization.k8s.io");
    let everywhere = world.store.list(&of("clusterrolebindings"), "").into_values();
    let here = (!namespace.is_empty()).then(|| world.store.list(&of("rolebindings"), namespace).into_values());
    let bindings = everywhere.chain(here.into_iter().flatten());
    let meant = bindings
        .filter(|binding| binding["subjects"].as_array().into_iter().flatten().any(|subject| user.is_meant(subject)));
    meant.flat_map(move |binding| {
        let role = &binding["roleRef"];
        let (resource, namespace) =
            if role["kind"] == "Role" { (of("roles"), namespace) } else { (of("clusterroles"), "") };
        let key = super::store::Key::new(&resource, namespace, role["name"].as_str().unwrap_or_default());
        let role = world.store.get(&key);
        role.and_then(|role| role["rules"].as_array().cloned()).unwrap_or_default()
    })
}

fn permits(rule: &Value, verb: &str, target: &Target) -> bool {
    let has = |field: &str, wanted: &[&str]| {
        rule[field].as_array().is_some_and(|list| list.iter().any(|one| wanted.iter().any(|wanted| one == wanted)))
    };
    let resource = path_of(target);
    let any = format!("*/{}", target.subresource);
    let named = rule["resourceNames"].as_array().is_none_or(Vec::is_empty)
        || (!target.name.is_empty() && has("resourceNames", &[&target.name]));
    has("verbs", &[verb, "*"])
        && has("apiGroups", &[&target.resource.group, "*"])
        && has("resources", &[&resource, "*", &any])
        && named
}

/// Where anybody may ask who they are.
pub(crate) const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// POST of a `SelfSubjectReview`.
pub(crate) fn who_am_i(user: &User) -> Value {
    json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "status": {"userInfo": user.info()}})
}

/// POST of `serviceaccounts/NAME/token`: the account becomes a user with a new token.
pub(crate) fn request_token(world: &mut World, target: &Target, body: &Value) -> Outcome<(u16, Value)> {
    let Target { resource, namespace, name, .. } = target;
    if world.store.get(&World::key(target)).is_none() {
        return Err(status::not_found(resource.named(name)));
    }
    if body["spec"]["expirationSeconds"].as_i64().is_some_and(|seconds| seconds < 600) {
        let value = &body["spec"]["expirationSeconds"];
        let why = "may not specify a duration less than 10 minutes";
        let named = status::Named { group: "authentication.k8s.io", kind: "TokenRequest", name: "" };
        return Err(status::invalid(named, &[status::Mistake::invalid("spec.expirationSeconds", value, why)]));
    }
    let bound = &body["spec"]["boundObjectRef"];
    let node = bound["name"].as_str().filter(|_| bound["kind"] == "Node").map(str::to_owned);
    if let Some(node) = &node {
        let named = status::Named { group: "", kind: "nodes", name: node };
        let found = world.store.get(&super::store::Key::new("nodes", "", node));
        let found = found.ok_or_else(|| status::not_found(named))?;
        if !bound["uid"].is_null() && bound["uid"] != found["metadata"]["uid"] {
            return Err(status::conflict(
                named,
                "the UID in the bound object reference does not match the UID in record",
            ));
        }
    }
    let token = world.uid();
    let user = User { node, ..User::named(&format!("system:serviceaccount:{namespace}:{name}")) };
    let list = body["spec"]["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<String> = list.filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() || audiences.iter().any(|audience| audience == SELF) {
        world.users.insert(token.clone(), user);
    } else {
        world.foreign_tokens.insert(token.clone(), ForeignToken { user, audiences });
    }
    let seconds = body["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
    let now: jiff::Timestamp = world.now().parse().unwrap_or_default();
    let end = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
    let answer = json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": world.now()},
        "spec": {"audiences": body["spec"]["audiences"], "expirationSeconds": seconds, "boundObjectRef": bound},
        "status": {"token": token, "expirationTimestamp": end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()},
    });
    Ok((201, answer))
}

/// POST of a `TokenReview`: whose token it is, if it is for one of these audiences (pkg/registry/authentication/tokenreview and
/// pkg/serviceaccount in Kubernetes' sources).
pub(crate) fn review(world: &World, body: &Value) -> (u16, Value) {
    let token = body["spec"]["token"].as_str().unwrap_or_default();
    let wanted = body["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let wanted: Vec<&str> =
        Some(wanted.collect::<Vec<_>>()).filter(|all| !all.is_empty()).unwrap_or_else(|| vec![SELF]);
    let own = world.users.get(token).map(|user| (user, vec![SELF.to_owned()]));
    let foreign = world.foreign_tokens.get(token).map(|found| (&found.user, found.audiences.clone()));
    let status = match own.or(foreign) {
        None => json!({"user": {}, "error": "[invalid bearer token, token lookup failed]"}),
        Some(_) if world.expired.contains(token) => {
            json!({"user": {}, "error": "[invalid bearer token, service account token has expired]"})
        }
        Some((user, audiences)) => {
            let common: Vec<&String> = audiences.iter().filter(|one| wanted.contains(&one.as_str())).collect();
            if common.is_empty() {
                let error = format!(
                    "[invalid bearer token, token audiences {audiences:?} is invalid for the target audiences {wanted:?}]"
                );
                json!({"user": {}, "error": error})
            } else {
                json!({"authenticated": true, "user": user.info(), "audiences": common})
            }
        }
    };
    let spec = &body["spec"];
    (
        201,
        json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": spec, "status": status}),
    )
}
