//! Who asks: the cluster of a kubeconfig, service accounts' tokens, and kubeconfigs with them for processes in the lab.
//!
//! Deliberately absent: clients. The admin's own credentials never reach a process of ours.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Config;
use kube::config::{Cluster, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use super::api::{Api, JSON, Outcome, fault};
use super::relay;

/// How long tokens are good. The server may give less.
const SECONDS: u32 = 7200;

/// An API server as a kubeconfig names it.
pub(super) struct Server {
    cluster: Cluster,
    /// Its host, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    secure: bool,
    path: String,
}

impl Server {
    /// The server and the admin of a kubeconfig's current context.
    pub(super) fn of(kubeconfig: Kubeconfig) -> Outcome<(Self, Api)> {
        let context = kubeconfig.current_context.clone().unwrap_or_default();
        let named = kubeconfig.contexts.iter().find(|one| one.name == context);
        let named = named.and_then(|one| one.context.as_ref()).map(|context| context.cluster.clone());
        let missing = || fault(format!("KUBECONFIG: no cluster for its current context {context:?}"));
        let name = named.ok_or_else(missing)?;
        let cluster = kubeconfig.clusters.iter().find(|one| one.name == name).and_then(|one| one.cluster.clone());
        let cluster = cluster.ok_or_else(missing)?;
        if cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()) {
            return Err(fault("KUBECONFIG: a cluster behind a proxy-url is not supported, by Egret neither"));
        }
        let uri: http::Uri = cluster.server.as_deref().unwrap_or_default().parse().map_err(fault)?;
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or_else(missing)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path().trim_end_matches('/').to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fault)?;
        let options = KubeConfigOptions::default();
        let config = runtime.block_on(Config::from_custom_kubeconfig(kubeconfig, &options));
        let config = config.map_err(|error| fault(format!("KUBECONFIG: {error}")))?;
        Ok((Self { cluster, host, port, secure, path }, Api::new(config)?))
    }

    /// As a person knows it.
    pub(super) fn shown(&self) -> &str {
        self.cluster.server.as_deref().unwrap_or_default()
    }

    /// A kubeconfig for a process in the lab: over the relay, with this token. The server's certificate is still checked against the name
    /// that the admin's kubeconfig has for it.
    pub(super) fn kubeconfig(&self, token: &str) -> Outcome<Value> {
        let (host, port) = relay::AT;
        let scheme = if self.secure { "https" } else { "http" };
        let mut cluster = json!({"server": format!("{scheme}://{host}:{port}{}", self.path)});
        if self.secure {
            let name = self.cluster.tls_server_name.clone().filter(|name| !name.is_empty());
            cluster["tls-server-name"] = json!(name.unwrap_or_else(|| self.host.clone()));
            if let Some(authority) = self.authority()? {
                cluster["certificate-authority-data"] = json!(authority);
            }
            if self.cluster.insecure_skip_tls_verify == Some(true) {
                cluster["insecure-skip-tls-verify"] = json!(true);
            }
        }
        Ok(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "lab", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        }))
    }

    fn authority(&self) -> Outcome<Option<String>> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(data) = given(&self.cluster.certificate_authority_data) {
            return Ok(Some(data));
        }
        let Some(file) = given(&self.cluster.certificate_authority) else { return Ok(None) };
        let read = std::fs::read(Path::new(&file)).map_err(|error| fault(format!("read {file}: {error}")))?;
        Ok(Some(STANDARD.encode(read)))
    }
}

/// A token of a service account, bound to a node where one is given by name and uid.
pub(super) fn token(api: &Api, namespace: &str, account: &str, node: Option<(&str, &str)>) -> Outcome<String> {
    let mut request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": SECONDS},
    });
    if let Some((name, uid)) = node {
        request["spec"]["boundObjectRef"] = json!({"kind": "Node", "apiVersion": "v1", "name": name, "uid": uid});
    }
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let answer = api.create_soon(&path, &request)?;
    let token = answer["status"]["token"].as_str().filter(|token| !token.is_empty());
    token.map(str::to_owned).ok_or_else(|| fault(format!("POST {path} gave no token: {answer}")))
}

/// Asks the server whose a token is; it has to be this account's, and of this node where it is bound to one. A proxy that puts its own
/// credentials in would make every check of rights worthless.
pub(super) fn check(api: &Api, namespace: &str, account: &str, node: Option<&str>) -> Outcome {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = api.done("POST", path, JSON, &review)?;
    let user = &answer["status"]["userInfo"];
    let wanted = format!("system:serviceaccount:{namespace}:{account}");
    if user["username"] != json!(wanted) {
        return Err(fault(format!("the token of {wanted} is taken for {} by the server", user["username"])));
    }
    let Some(node) = node else { return Ok(()) };
    let found = &user["extra"]["authentication.kubernetes.io/node-name"];
    if *found != json!([node]) {
        let why = format!(
            "the token bound to node {node} says node-name {found}: the server must have the features \
             ServiceAccountTokenNodeBinding and ServiceAccountTokenPodNodeInfo (Kubernetes 1.33 has them on)"
        );
        return Err(fault(why));
    }
    Ok(())
}
