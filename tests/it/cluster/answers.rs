//! Who may ask an agent what its kernel holds: RBAC, TokenRequest and TokenReview of the API server.
//!
//! Deliberately absent: the way through `pods/proxy`. The suite's agents are processes in a lab that no API server reaches, so their port is
//! asked directly; of the way itself only the right is tried. `incluster::answered` goes it, with the double.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use egret::core::explain::{KernelQuestion, TOKEN_HEADER};
use serde_json::{Value, json};

use super::api::{Api, JSON, Outcome, fault};
use super::suite::Suite;

/// Where the suite's agents listen.
pub(super) const LISTEN: &str = "0.0.0.0:9790";
const KNOCKED: (&str, u16) = ("172.18.0.2", 9790);
const CALLER: &str = "caller";

fn request(audience: &str) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": 600},
    })
}

/// What the agent of kind-worker says to this token.
fn knock(suite: &Suite, token: &str) -> Outcome<(u16, String)> {
    let question = KernelQuestion { destination: Some([10, 0, 4, 2].into()), ..KernelQuestion::default() };
    let request =
        format!("GET /v1/kernel?{} HTTP/1.1\r\nhost: egret\r\n{TOKEN_HEADER}: {token}\r\n\r\n", question.query());
    let exchange = move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(KNOCKED)?;
        stream.write_all(request.as_bytes())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    };
    let reply = suite.lab.router().enter(exchange)?.map_err(fault)?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
    Ok((head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0), body.to_owned()))
}

fn expect(what: &str, wanted: u16, (code, body): (u16, String)) -> Outcome {
    if code == wanted { Ok(()) } else { Err(fault(format!("{what}: {code} {body}, not {wanted}"))) }
}

pub(super) fn who_may(suite: &mut Suite) -> Outcome {
    let namespace = suite.namespace();
    let tokens = format!("/api/v1/namespaces/{namespace}/serviceaccounts/egret-viewer/token");
    let audience = format!("egret.dev/agent/{}", suite.named("kind-worker"));
    let (_, agent) = suite.account("egret-agent", Some("kind-worker"))?;
    let (code, answer) = agent.send("POST", &tokens, JSON, &request(&audience))?;
    expect("an agent makes a token to ask others", 403, (code, answer.to_string()))?;

    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    let bindings = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
    suite
        .api
        .create_soon(&accounts, &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": CALLER}}))?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": CALLER},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "egret-explain"},
        "subjects": [{"kind": "ServiceAccount", "name": CALLER, "namespace": namespace}],
    });
    suite.api.create_soon(&bindings, &binding)?;
    let asked = ask(suite, &tokens, &audience);
    suite.api.delete(&format!("{bindings}/{CALLER}"))?;
    suite.api.delete(&format!("{accounts}/{CALLER}"))?;
    asked
}

/// Asks as somebody to whom the Role is bound.
fn ask(suite: &Suite, tokens: &str, audience: &str) -> Outcome {
    let namespace = suite.namespace();
    let (own, caller): (String, Api) = suite.account(CALLER, None)?;
    let mut token = String::new();
    suite.await_that("the right to make a token, by the Role egret-explain", || {
        let (code, answer) = caller.send("POST", tokens, JSON, &request(audience))?;
        answer["status"]["token"].as_str().unwrap_or_default().clone_into(&mut token);
        Ok(code == 201)
    })?;
    let other = tokens.replace("egret-viewer", "egret-agent");
    let (code, answer) = caller.send("POST", &other, JSON, &request(audience))?;
    expect("a token of another account", 403, (code, answer.to_string()))?;
    // The right to go through the API server: there is no such pod, and that is what it says.
    let way = format!("/api/v1/namespaces/{namespace}/pods/no-such-pod:9790/proxy/v1/kernel");
    let (code, answer) = caller.send("GET", &way, JSON, &Value::Null)?;
    expect("pods/proxy", 404, (code, answer.to_string()))?;
    // Of the account itself, the API server knows nothing that it may do.
    expect("the right token", 200, knock(suite, &token)?)?;
    expect("the caller's own token", 401, knock(suite, &own)?)?;
    let elsewhere = caller.done("POST", tokens, JSON, &request("egret.dev/agent/another-node"))?;
    let elsewhere = elsewhere["status"]["token"].as_str().unwrap_or_default().to_owned();
    expect("a token for another node's agent", 401, knock(suite, &elsewhere)?)?;
    let code = suite.api.with_token(&token)?.send("GET", "/api/v1/nodes?limit=1", JSON, &Value::Null)?.0;
    expect("the token at the API server itself", 401, (code, String::new()))
}
