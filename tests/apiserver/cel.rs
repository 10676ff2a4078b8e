//! `x-kubernetes-validations` and admission policies: rules in CEL, with the functions that Kubernetes adds and that somebody here uses.
//!
//! Deliberately absent: the cost of a rule, types before it runs, quantities, URLs and dates. What cannot be evaluated is an error that
//! the whole server remembers, never a rule that holds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use cel::extractors::This;
use cel::objects::Opaque;
use cel::{Context, Env, ExecutionError, Program, Value as Cel};
use ipnet::IpNet;
use serde_json::Value;

/// An address within a rule.
#[derive(Debug, PartialEq, Eq)]
struct Ip(IpAddr);

/// A network within a rule.
#[derive(Debug, PartialEq, Eq)]
struct Cidr(IpNet);

impl Opaque for Ip {
    fn runtime_type_name(&self) -> &'static str {
        "net.IP"
    }
}

impl Opaque for Cidr {
    fn runtime_type_name(&self) -> &'static str {
        "net.CIDR"
    }
}

/// A rule, compiled.
struct Rule {
    program: Program,
    /// Whether it speaks of what was before.
    is_transition: bool,
}

/// What a thread needs to evaluate rules. Rules are few, evaluated with every write, and slow to compile.
struct Evaluator {
    env: Arc<Env>,
    /// Knows the functions, and no variable.
    context: Result<Context<'static, 'static>, String>,
    rules: RefCell<HashMap<String, Result<Rc<Rule>, String>>>,
}

thread_local! {
    static EVALUATOR: Evaluator = Evaluator::new();
}

impl Evaluator {
    fn new() -> Self {
        let env = Arc::new(Env::stdlib());
        let mut context = Context::with_env(Arc::clone(&env));
        let known = functions(&mut context).map_err(|error| format!("{error:?}"));
        Self { env, context: known.map(|()| context), rules: RefCell::default() }
    }

    fn rule(&self, text: &str) -> Result<Rc<Rule>, String> {
        if let Some(compiled) = self.rules.borrow().get(text) {
            return compiled.clone();
        }
        let program = self.env.compile(text).map_err(|errors| format!("{text}: {errors}"));
        let rule = program.map(|program| {
            let is_transition = program.references().has_variable("oldSelf");
            Rc::new(Rule { program, is_transition })
        });
        self.rules.borrow_mut().insert(text.to_owned(), rule.clone());
        rule
    }

    fn run<'a>(&self, text: &str, known: impl IntoIterator<Item = (&'a str, Cel)>) -> Result<Cel, String> {
        let rule = self.rule(text)?;
        let context = self.context.as_ref().map_err(|error| format!("{text}: {error}"))?;
        let mut scope = context.new_inner_scope();
        for (name, value) in known {
            scope.add_variable_from_value(name, value);
        }
        rule.program.execute(&scope).map_err(|error| format!("{text}: {error}"))
    }
}

/// Whether a rule compiles.
pub(crate) fn check(rule: &str) -> Result<(), String> {
    EVALUATOR.with(|evaluator| evaluator.rule(rule).map(|_| ()))
}

/// Whether a rule speaks of what was before.
pub(crate) fn is_transition(rule: &str) -> bool {
    EVALUATOR.with(|evaluator| evaluator.rule(rule).is_ok_and(|rule| rule.is_transition))
}

/// Evaluates a rule to a truth.
pub(crate) fn holds(rule: &str, value: &Value, old: Option<&Value>) -> Result<bool, String> {
    match evaluate(rule, value, old)? {
        Cel::Bool(truth) => Ok(truth),
        other => Err(format!("{rule}: {other:?} is no truth")),
    }
}

/// Evaluates a `messageExpression`.
pub(crate) fn message(expression: &str, value: &Value, old: Option<&Value>) -> Result<String, String> {
    match evaluate(expression, value, old)? {
        Cel::String(text) => Ok(text.to_string()),
        other => Err(format!("{expression}: {other:?} is no text")),
    }
}

fn evaluate(rule: &str, value: &Value, old: Option<&Value>) -> Result<Cel, String> {
    let old = old.map(|old| ("oldSelf", to_cel(old)));
    run(rule, [("self", to_cel(value))].into_iter().chain(old))
}

fn run<'a>(rule: &str, known: impl IntoIterator<Item = (&'a str, Cel)>) -> Result<Cel, String> {
    EVALUATOR.with(|evaluator| evaluator.run(rule, known))
}

/// What expressions of an admission policy know.
pub(crate) struct Scope {
    known: Vec<(&'static str, Cel)>,
    variables: HashMap<String, Cel>,
}

impl Scope {
    /// These values, and no variables yet.
    pub(crate) fn new(known: &[(&'static str, &Value)]) -> Self {
        Self { known: known.iter().map(|(name, value)| (*name, to_cel(value))).collect(), variables: HashMap::new() }
    }

    /// Defines a variable, which later expressions know as `variables.NAME`.
    pub(crate) fn define(&mut self, name: &str, expression: &str) -> Result<(), String> {
        let value = self.run(expression)?;
        self.variables.insert(name.to_owned(), value);
        Ok(())
    }

    /// Evaluates an expression to a truth.
    pub(crate) fn holds(&self, expression: &str) -> Result<bool, String> {
        match self.run(expression)? {
            Cel::Bool(truth) => Ok(truth),
            other => Err(format!("{expression}: {other:?} is no truth")),
        }
    }

    /// Evaluates an expression to a text.
    pub(crate) fn text(&self, expression: &str) -> Result<String, String> {
        match self.run(expression)? {
            Cel::String(text) => Ok(text.to_string()),
            other => Err(format!("{expression}: {other:?} is no text")),
        }
    }

    fn run(&self, expression: &str) -> Result<Cel, String> {
        let variables = ("variables", Cel::Map(self.variables.clone().into()));
        run(expression, self.known.iter().cloned().chain([variables]))
    }
}

/// JSON has one kind of number, CEL three; whole ones are `int` in Kubernetes.
fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(truth) => Cel::Bool(*truth),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Cel::Float(number.as_f64().unwrap_or(f64::NAN)), Cel::Int)
        }
        Value::String(text) => Cel::from(text.as_str()),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(map) => {
            let map: HashMap<String, Cel> = map.iter().map(|(key, value)| (key.clone(), to_cel(value))).collect();
            Cel::Map(map.into())
        }
    }
}

fn failed(function: &str, message: impl std::fmt::Display) -> ExecutionError {
    ExecutionError::function_error(function, message)
}

/// Kubernetes takes no IPv4 address with leading zeros, no zone, and no IPv4 address that is mapped into IPv6.
fn read_ip(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    (!mapped).then_some(address)
}

fn read_cidr(text: &str) -> Option<IpNet> {
    let network: IpNet = text.parse().ok()?;
    let length = text.split_once('/')?.1;
    let mapped = matches!(network.addr(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    (length == network.prefix_len().to_string() && !mapped).then_some(network)
}

fn an_ip(function: &str, value: &Cel) -> Result<IpAddr, ExecutionError> {
    match value {
        Cel::String(text) => read_ip(text).ok_or_else(|| failed(function, format!("{text:?} is no address"))),
        Cel::Opaque(opaque) => match (opaque.downcast_ref::<Ip>(), opaque.downcast_ref::<Cidr>()) {
            (Some(ip), _) => Ok(ip.0),
            (_, Some(cidr)) => Ok(cidr.0.addr()),
            _ => Err(failed(function, "neither an address nor a network")),
        },
        _ => Err(failed(function, "no address")),
    }
}

fn a_cidr(function: &str, value: &Cel) -> Result<IpNet, ExecutionError> {
    match value {
        Cel::String(text) => read_cidr(text).ok_or_else(|| failed(function, format!("{text:?} is no network"))),
        Cel::Opaque(opaque) => match opaque.downcast_ref::<Cidr>() {
            Some(cidr) => Ok(cidr.0),
            None => Err(failed(function, "no network")),
        },
        _ => Err(failed(function, "no network")),
    }
}

type Answer = Result<Cel, ExecutionError>;

fn functions(context: &mut Context<'_, '_>) -> Result<(), cel::DeclarationError> {
    context.add_function("isIP", |text: Arc<String>| read_ip(&text).is_some())?;
    context.add_function("isCIDR", |text: Arc<String>| read_cidr(&text).is_some())?;
    context.add_function("ip", |This(value): This<Cel>| -> Answer {
        Ok(Cel::Opaque(Arc::new(Ip(an_ip("ip", &value)?))))
    })?;
    context.add_function("cidr", |This(value): This<Cel>| -> Answer {
        Ok(Cel::Opaque(Arc::new(Cidr(a_cidr("cidr", &value)?))))
    })?;
    context.add_function("family", |This(value): This<Cel>| -> Answer {
        Ok(Cel::Int(if an_ip("family", &value)?.is_ipv4() { 4 } else { 6 }))
    })?;
    context.add_function("isLoopback", |This(value): This<Cel>| -> Answer {
        Ok(Cel::Bool(an_ip("isLoopback", &value)?.is_loopback()))
    })?;
    context.add_function("isUnspecified", |This(value): This<Cel>| -> Answer {
        Ok(Cel::Bool(an_ip("isUnspecified", &value)?.is_unspecified()))
    })?;
    context.add_function("prefixLength", |This(value): This<Cel>| -> Answer {
        Ok(Cel::Int(a_cidr("prefixLength", &value)?.prefix_len().into()))
    })?;
    context.add_function("masked", |This(value): This<Cel>| -> Answer {
        Ok(Cel::Opaque(Arc::new(Cidr(a_cidr("masked", &value)?.trunc()))))
    })?;
    context.add_function("containsIP", |This(value): This<Cel>, other: Cel| -> Answer {
        let network = a_cidr("containsIP", &value)?;
        Ok(Cel::Bool(network.contains(&an_ip("containsIP", &other)?)))
    })?;
    context.add_function("containsCIDR", |This(value): This<Cel>, other: Cel| -> Answer {
        let network = a_cidr("containsCIDR", &value)?;
        Ok(Cel::Bool(network.contains(&a_cidr("containsCIDR", &other)?)))
    })
}
