//! A double of the Kubernetes API server, for tests: real HTTP, objects in memory, and everything that can go wrong on request.
//!
//! It is as good as `tests/it/apiserver_alone`, which replays what a real server 1.36 said (`exchanges.json`) and lets kube's own client at it.
//! Deliberately absent: TLS, protobuf, tables, controllers, conversion between versions. `events` of the core group
//! and of `events.k8s.io` are two resources here, though the real server keeps one.
//!
//! A rule in CEL that cannot be evaluated answers 500, and fails the test when the server is dropped.

#![allow(dead_code, unused_imports, reason = "each user of the double uses a part of it")]

mod admission;
mod builtin;
mod cel;
mod delete;
mod faults;
mod fields;
mod http;
mod managers;
mod merge;
mod patch;
mod proxy;
mod rbac;
mod read;
mod resource;
pub(crate) mod schema;
mod selectors;
mod serve;
mod shape;
pub(crate) mod signal;
mod status;
mod store;
mod validate;
mod watch;
mod world;
mod write;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;

pub(crate) use faults::{Fault, FaultId, Filter};
pub(crate) use world::{Request, Simulated};

use http::Asked;
use rbac::User;
use serve::{Gate, Peer, Shared};
use store::Key;

use crate::lab::wait_until;

/// A running server. Dropping it ends every connection.
pub(crate) struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Serves on a socket that was bound already, from a thread of its own. That thread is in the namespace of the caller's, in which the
    /// socket has to be bound again after [`Self::back`].
    pub(crate) fn start(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(None));
        let (stop, stopped) = oneshot::channel();
        let (inner, runtime) =
            (Arc::clone(&shared), tokio::runtime::Builder::new_current_thread().enable_all().build()?);
        let thread = std::thread::spawn(move || runtime.block_on(serve(inner, listener, stopped)));
        Ok(Self { shared, address, stop: Some(stop), thread: Some(thread) })
    }

    /// Serves nobody by itself: requests come through [`Self::router`], in this process. Times and uids are the simulation's.
    pub(crate) fn in_memory(clock: impl Fn() -> jiff::Timestamp + Send + 'static) -> Self {
        let shared = Arc::new(Shared::new(Some(Simulated { clock: Box::new(clock), uids: 0 })));
        Self { shared, address: SocketAddr::from(([127, 0, 0, 1], 0)), stop: None, thread: None }
    }

    /// What answers requests without a connection.
    pub(crate) fn router(&self) -> axum::Router {
        let peer = axum::extract::connect_info::MockConnectInfo(Peer(Arc::default()));
        axum::Router::new().fallback(http::answer).layer(peer).with_state(Arc::clone(&self.shared))
    }

    /// Serves on this machine's loopback.
    pub(crate) fn local() -> io::Result<Self> {
        Self::start(TcpListener::bind(("127.0.0.1", 0))?)
    }

    /// Where it is: `http://127.0.0.1:1234`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig for it, with a token or without.
    pub(crate) fn kubeconfig(&self, token: Option<&str>) -> String {
        let user = token.map_or_else(|| json!({}), |token| json!({"token": token}));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "double",
            "clusters": [{"name": "double", "cluster": {"server": self.url()}}],
            "users": [{"name": "double", "user": user}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double"}}],
        });
        config.to_string()
    }

    // Users. Without any, everybody is an admin; as soon as there is one, only those with a token are let in.

    /// Lets an admin in with this token.
    pub(crate) fn admin(&self, name: &str, token: &str) {
        self.shared.world().users.insert(token.to_owned(), User::admin(name));
    }

    /// Lets a user in with this token, to what roles and bindings in the store let them do. A service account is called
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub(crate) fn user(&self, name: &str, token: &str) {
        self.shared.world().users.insert(token.to_owned(), User::named(name));
    }

    /// Ends the time of every token that was made until now.
    pub(crate) fn expire_tokens(&self) {
        self.change(|world| {
            let tokens: Vec<String> = world.foreign_tokens.keys().cloned().collect();
            world.expired.extend(tokens);
        });
    }

    // Objects. A resource is called `nodes`, `leases.coordination.k8s.io`, `egressnodes.egret.dev`.

    /// An object as it is stored. The namespace is empty where there is none.
    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.stored(resource, namespace, name).map(|object| Value::clone(&object))
    }

    /// The same without a copy, for those who look often.
    pub(crate) fn stored(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.shared.world().store.get(&Key::new(resource, namespace, name))
    }

    /// All objects of a resource, by namespace and name.
    pub(crate) fn list(&self, resource: &str) -> Vec<Value> {
        self.all_stored(resource).iter().map(|object| Value::clone(object)).collect()
    }

    /// The same without copies.
    pub(crate) fn all_stored(&self, resource: &str) -> Vec<Arc<Value>> {
        self.shared.world().store.list(resource, "").into_values().collect()
    }

    /// Sends a request as an admin, past all faults. It is not written down.
    pub(crate) fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        http::execute_as_admin(&self.shared, &Asked::direct(method, path, kind, body))
    }

    /// Creates an object of any kind that is served, with its status.
    #[track_caller]
    pub(crate) fn create(&self, object: &Value) -> Value {
        let path = self.path(object, "");
        let created = expect("create", self.send("POST", &path, "application/json", object));
        if !object["status"].is_object() {
            return created;
        }
        let name = created["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{}/status", self.path(object, name));
        let status = json!({"status": object["status"]});
        match self.send("PATCH", &path, "application/merge-patch+json", &status) {
            (404, _) => created,
            answer => expect("patch the status of", answer),
        }
    }

    /// Puts a merge patch into an object, and into its status where the patch has one.
    #[track_caller]
    pub(crate) fn patch(&self, resource: &str, namespace: &str, name: &str, patch: &Value) -> Value {
        let object = self.get(resource, namespace, name).expect("the object that a test patches");
        let path = self.path(&object, name);
        let kind = "application/merge-patch+json";
        if patch["status"].is_object() {
            expect("patch the status of", self.send("PATCH", &format!("{path}/status"), kind, patch));
        }
        expect("patch", self.send("PATCH", &path, kind, patch))
    }

    /// Deletes an object at once.
    #[track_caller]
    pub(crate) fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let object = self.get(resource, namespace, name).expect("the object that a test deletes");
        let path = format!("{}?gracePeriodSeconds=0", self.path(&object, name));
        expect("delete", self.send("DELETE", &path, "", &Value::Null));
    }

    #[track_caller]
    fn path(&self, object: &Value, name: &str) -> String {
        let resource = self.shared.world().resource_of(object).expect("a kind that is served");
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        resource.path(namespace, name)
    }

    /// The version of the last write.
    pub(crate) fn version(&self) -> u64 {
        self.shared.world().store.version()
    }

    // What happened.

    /// Every request since the start or the last [`Self::forget_requests`].
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.world().requests.clone()
    }

    /// How many of them a filter means that changed something.
    pub(crate) fn writes(&self, filter: &Filter) -> usize {
        let meant = |one: &&Request| one.wrote && filter.matches(&one.verb, &one.resource, &one.name, &one.user);
        self.shared.world().requests.iter().filter(meant).count()
    }

    /// Forgets every request.
    pub(crate) fn forget_requests(&self) {
        self.shared.world().requests.clear();
    }

    /// What it should have known how to do. Not empty, it fails the test when it is dropped.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.shared.world().complaints.iter().cloned().collect()
    }

    /// The same, and they are forgiven.
    pub(crate) fn take_complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.world().complaints).into_iter().collect()
    }

    // What goes wrong.

    /// Sets a fault until it is cleared.
    pub(crate) fn fault(&self, filter: Filter, fault: Fault) -> FaultId {
        self.change(|world| world.faults.set(filter, fault, None))
    }

    /// Sets a fault for so many requests.
    pub(crate) fn fault_times(&self, filter: Filter, fault: Fault, times: usize) -> FaultId {
        self.change(|world| world.faults.set(filter, fault, Some(times)))
    }

    /// How many requests met a fault; nothing where it was cleared.
    pub(crate) fn met(&self, fault: FaultId) -> Option<usize> {
        self.shared.world().faults.met(fault)
    }

    /// Takes a fault away. Those that hang by it go on.
    pub(crate) fn clear(&self, fault: FaultId) {
        self.change(|world| world.faults.clear(fault));
    }

    /// Takes all faults away, but for those of watches and lists.
    pub(crate) fn clear_faults(&self) {
        self.change(|world| world.faults.clear_all());
    }

    /// Refuses connections from now on, and ends those there are.
    pub(crate) fn away(&self) {
        self.set_away(true);
    }

    /// Comes back, at the same address and with everything as it was.
    pub(crate) fn back(&self) {
        self.set_away(false);
    }

    fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::SeqCst);
        self.shared.notify();
        let done = wait_until(Duration::from_secs(10), || self.shared.listening.load(Ordering::SeqCst) != away);
        assert!(done, "the listening socket follows");
    }

    /// Ends all watches in order, as the real server does after some minutes.
    pub(crate) fn end_watches(&self) {
        self.change(|world| world.epoch += 1);
    }

    /// Drops all connections, in the middle of whatever they are at.
    pub(crate) fn cut_connections(&self) {
        self.shared.cut_lines();
    }

    /// Holds back what happens to a resource from its watches, until it is released.
    pub(crate) fn hold(&self, resource: &str) {
        self.change(|world| {
            let version = world.store.version();
            *world.held.entry(resource.to_owned()).or_insert(version)
        });
    }

    /// Tells watches what was held back.
    pub(crate) fn release(&self, resource: &str) {
        self.change(|world| world.held.remove(resource));
    }

    /// Answers lists of a resource, and the initial events of its watches, as they were at a version.
    pub(crate) fn stale(&self, resource: &str, version: u64) {
        self.change(|world| world.stale.insert(resource.to_owned(), version));
    }

    /// Answers them as they are.
    pub(crate) fn fresh(&self, resource: &str) {
        self.change(|world| world.stale.remove(resource));
    }

    /// Forgets the past: watches and pages that begin in it get 410.
    pub(crate) fn compact(&self) {
        self.change(|world| world.store.compact());
    }

    /// Sends a bookmark to every watch that takes them.
    pub(crate) fn bookmark(&self) {
        self.change(|world| world.bookmarks += 1);
    }

    /// Stops the clock of what it writes at this time: `2026-01-01T00:00:00Z`.
    pub(crate) fn stop_clock(&self, at: &str) {
        self.change(|world| world.clock = Some(at.to_owned()));
    }

    fn change<T>(&self, change: impl FnOnce(&mut world::World) -> T) -> T {
        let value = change(&mut self.shared.world());
        self.shared.notify();
        value
    }
}

#[track_caller]
fn expect(what: &str, (code, body): (u16, Value)) -> Value {
    assert!(code < 300, "a test cannot {what} an object: {body}");
    body
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A thread that is gone already needs no telling.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the server was seen by its clients as silence; raising it from a drop would hide the test's own.
            let _ = thread.join();
        }
        let complaints = self.complaints();
        assert!(complaints.is_empty() || std::thread::panicking(), "the double does not know how: {complaints:#?}");
    }
}

async fn serve(shared: Arc<Shared>, listener: TcpListener, stopped: oneshot::Receiver<()>) {
    let Ok(gate) = Gate::new(Arc::clone(&shared), listener) else { return };
    let router = axum::Router::new().fallback(http::answer).with_state(shared);
    let server = axum::serve(gate, router.into_make_service_with_connect_info::<Peer>());
    tokio::select! {
        _ = stopped => {}
        _ = server => {}
    }
}
