//! What every stand of Egret's processes in a lab has: starting, pushing, waiting, asking pods, ending. A stand adds which processes there
//! are and where they find their cluster, and hands on the rest by `Deref`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::lab::{Answer, EGRESS, EGRESS6, Lab, LabError, OUTPOST, OUTPOST6, Process, wait_until};

/// What tests in a lab return.
pub(crate) type Outcome<T = ()> = Result<T, LabError>;

/// Only against hanging: no test passes by waiting it out.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How long a pod waits for an answer that should not come. Less than the second after which a SYN is sent again; whether the SYN leaked is
/// not seen by this wait but by the watch at the router.
pub(crate) const HELD_BACK: Duration = Duration::from_millis(600);

/// How long a pod waits for an answer that is to come, before it asks again: a SYN that was dropped is sent again only after a second.
const ASKS_AGAIN: Duration = Duration::from_millis(200);

/// The outpost in both families, with the egress address it lets in.
pub(crate) const WAYS: [(IpAddr, IpAddr); 2] = [(OUTPOST, EGRESS), (OUTPOST6, EGRESS6)];

/// Processes in a lab. They go before what they talk to, and that before the lab.
pub(crate) struct Harness {
    processes: BTreeMap<String, Process>,
    /// What there is beside the processes' output, for messages; it keeps what it reads alive.
    objects: Box<dyn Fn() -> String + Send + Sync>,
    deadline: Duration,
    pub(crate) lab: Lab,
}

impl Harness {
    /// A lab without any process.
    pub(crate) fn new(lab: Lab) -> Self {
        Self { processes: BTreeMap::new(), objects: Box::new(String::new), deadline: DEADLINE, lab }
    }

    /// Shows this, too, when something does not come.
    pub(crate) fn showing(self, objects: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { objects: Box::new(objects), ..self }
    }

    /// Waits longer, against a server that is not the test's own.
    pub(crate) fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The names of the nodes.
    pub(crate) fn nodes(&self) -> Vec<String> {
        self.lab.nodes().iter().map(|node| node.name.clone()).collect()
    }

    /// A folder that stays the same over restarts of the process of this name.
    pub(crate) fn state(&self, of: &str) -> Outcome<PathBuf> {
        let folder = self.lab.folder().join(format!("state-{of}"));
        std::fs::create_dir_all(&folder).map_err(LabError::doing("make a state folder"))?;
        Ok(folder)
    }

    /// Pushes files, in one commit.
    pub(crate) fn push(&self, files: &[(&str, &str)]) -> Outcome {
        self.push_saying("another state of things", files)
    }

    /// The same with a message.
    pub(crate) fn push_saying(&self, message: &str, files: &[(&str, &str)]) -> Outcome {
        for (path, text) in files {
            self.lab.repository().write(path, text)?;
        }
        self.lab.repository().push(message).map(|_| ())
    }

    /// Keeps a process that was started.
    pub(crate) fn keep(&mut self, name: &str, process: Process) {
        self.processes.insert(name.to_owned(), process);
    }

    /// Waits until a process has said these words.
    pub(crate) fn await_words(&self, name: &str, words: &str) -> Outcome {
        self.process(name).wait_for(words, self.deadline)
    }

    /// A process that runs.
    pub(crate) fn process(&self, name: &str) -> &Process {
        &self.processes[name]
    }

    /// The same, to send it something.
    pub(crate) fn process_mut(&mut self, name: &str) -> &mut Process {
        self.processes.get_mut(name).expect("a process of this name")
    }

    /// Kills a process where it stands. Nothing to do where there is none.
    pub(crate) fn kill9(&mut self, name: &str) -> Outcome {
        self.processes.remove(name).map_or(Ok(()), |mut process| process.kill9())
    }

    /// Kills all.
    pub(crate) fn kill_all(&mut self) {
        self.processes.clear();
    }

    /// Ends a process with SIGTERM, as the kubelet and an init system do; its exit code.
    pub(crate) fn terminate(&mut self, name: &str) -> Outcome<Option<i32>> {
        if let Some(process) = self.processes.get_mut(name) {
            process.terminate()?;
        }
        Ok(self.await_end(name)?.and_then(|(code, _)| code))
    }

    /// Waits for the end of a process; its exit code and all it said.
    pub(crate) fn await_end(&mut self, name: &str) -> Outcome<Option<(Option<i32>, String)>> {
        let Some(mut process) = self.processes.remove(name) else { return Ok(None) };
        let status = process.wait_exit(self.deadline)?;
        Ok(Some((status.code(), process.output()?)))
    }

    /// What a process said, for messages.
    pub(crate) fn log(&self, name: &str) -> String {
        self.processes.get(name).and_then(|process| process.output().ok()).unwrap_or_default()
    }

    /// What all of them said.
    pub(crate) fn logs(&self) -> String {
        self.processes.keys().map(|name| format!("--- {name}\n{}", self.log(name))).collect::<Vec<_>>().join("\n")
    }

    /// All that a message can show.
    pub(crate) fn seen(&self) -> String {
        format!("{}\n{}", self.logs(), (self.objects)())
    }

    /// Waits until something is so, and says what it waited for otherwise.
    pub(crate) fn await_that(&self, awaited: &str, holds: impl FnMut() -> bool) -> Outcome {
        if wait_until(self.deadline, holds) { Ok(()) } else { Err(self.late(awaited, "")) }
    }

    /// Something did not come, with all that can be shown.
    pub(crate) fn late(&self, awaited: &str, last: &str) -> LabError {
        LabError::Late {
            awaited: awaited.to_owned(),
            deadline: self.deadline,
            seen: format!("{last}\n{}", self.seen()),
        }
    }

    /// Waits until a pod gets exactly this answer from an address.
    pub(crate) fn await_answer(&self, pod: &str, address: IpAddr, answer: Answer) -> Outcome {
        let mut last = Answer::NoAnswer;
        let patience = if answer == Answer::NoAnswer { HELD_BACK } else { ASKS_AGAIN };
        let answered = wait_until(self.deadline, || {
            last = self.lab.ask_within(pod, address, patience).unwrap_or(Answer::NoAnswer);
            last == answer
        });
        let awaited = format!("`{answer}` for {pod} from {address}");
        if answered { Ok(()) } else { Err(self.late(&awaited, &last.to_string())) }
    }

    /// Waits until a pod is let in as the first gateway's egress address, in both families.
    pub(crate) fn await_granted(&self, pod: &str) -> Outcome {
        WAYS.iter().try_for_each(|(outpost, egress)| self.await_answer(pod, *outpost, Answer::Granted(*egress)))
    }

    /// Waits until a pod is turned away as itself, in both families.
    pub(crate) fn await_own_way(&self, pod: &str) -> Outcome {
        let own = self.lab.pod_addresses(pod)?;
        WAYS.iter().zip(own).try_for_each(|((outpost, _), own)| self.await_answer(pod, *outpost, Answer::Denied(own)))
    }

    /// Waits until a pod gets no answer, in both families.
    pub(crate) fn await_held_back(&self, pod: &str) -> Outcome {
        WAYS.iter().try_for_each(|(outpost, _)| self.await_answer(pod, *outpost, Answer::NoAnswer))
    }

    /// Nobody's packet reached the outpost but from egress addresses and from these.
    pub(crate) fn assert_no_leak_but(&self, allowed: &[IpAddr]) -> Outcome {
        for (outpost, _) in WAYS {
            let mut wrong = self.lab.wrong_sources(outpost)?;
            wrong.retain(|source, _| !allowed.contains(source));
            assert!(wrong.is_empty(), "packets by source seen towards {outpost}: {wrong:?}\n{}", self.logs());
        }
        Ok(())
    }
}
