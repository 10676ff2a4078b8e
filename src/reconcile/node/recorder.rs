//! The recorder: a thread that writes the NAT record from the kernel's events, if that is switched on.
//!
//! A thread of its own, because events come in bursts and are lost if they are not read in time. Not here: what the
//! record says (`core::nat_record`), its files (`persistence::record_files`).

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::core::nat_record::segment::SegmentWriter;
use crate::core::nat_record::{Owner, RecordEntry, RecordNames, Translation};
use crate::kernel::conntrack::{Flow, FlowEvent, FlowEvents, FlowTable};
use crate::reconcile::persistence::record_files::{FOLDER, RecordFiles};
use crate::telemetry::chain;

/// How long events are gathered before they are written. A pod that has just started is known by then.
const GATHER: Duration = Duration::from_millis(250);
/// So many events are gathered at most.
const MOST: usize = 65_536;
/// Between attempts after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// A handle on the thread, which ends when it is dropped.
#[derive(Debug)]
pub struct Recorder(watch::Sender<RecordNames>);

impl Recorder {
    /// Starts the thread. It records nothing yet.
    pub fn start(files: RecordFiles) -> std::io::Result<Self> {
        let (names, told) = watch::channel(RecordNames::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            runtime.block_on(Recording { files, names: told, writer: SegmentWriter::default(), fault: None }.run());
        };
        std::thread::Builder::new().name("egret-record".to_owned()).spawn(work)?;
        Ok(Self(names))
    }

    /// Sets what is known of exits and pods now.
    pub fn set(&self, names: RecordNames) {
        self.0.send_if_modified(|before| {
            let differs = *before != names;
            *before = names;
            differs
        });
    }
}

/// Starts a recorder with this many bytes in a node's state folder, if any.
pub fn start(limit: Option<u64>, folder: &Path) -> std::io::Result<Option<Recorder>> {
    limit.map(|limit| Recorder::start(RecordFiles::new(folder.join(FOLDER), limit))).transpose()
}

/// An event that is not written yet.
struct Gathered {
    at: Timestamp,
    event: FlowEvent,
    before: bool,
    owner: Option<Owner>,
}

struct Recording {
    files: RecordFiles,
    names: watch::Receiver<RecordNames>,
    writer: SegmentWriter,
    fault: Option<String>,
}

impl Recording {
    /// Records until the handle is dropped.
    async fn run(mut self) {
        loop {
            if self.names.borrow_and_update().exits.is_empty() {
                if self.names.changed().await.is_err() {
                    return;
                }
                continue;
            }
            match self.record().await {
                Ok(()) => return,
                Err(error) => self.note(&error),
            }
            sleep(PAUSE).await;
        }
    }

    /// Records with one set of mark bits. An error is retried, and begins with what is there then.
    async fn record(&mut self) -> Result<(), String> {
        let mask = self.names.borrow().mask;
        // Listening comes first: what begins meanwhile is in both.
        let mut events = FlowEvents::open(mask).map_err(|error| error.to_string())?;
        let mut gathered = self.present(mask).await?;
        let mut due = Instant::now() + GATHER;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(due) => {
                    self.write(&mut gathered)?;
                    due = Instant::now() + GATHER;
                }
                changed = self.names.changed() => {
                    if changed.is_err() {
                        return self.write(&mut gathered);
                    }
                    if self.names.borrow_and_update().mask != mask {
                        return Err("the mark bits changed".to_owned());
                    }
                }
                next = events.next() => match next {
                    Ok(next) => {
                        let at = Timestamp::now();
                        gathered.extend(next.into_iter().map(|event| self.gathered(at, event, false)));
                        if gathered.len() >= MOST {
                            due = Instant::now();
                        }
                    }
                    Err(error) => {
                        self.write(&mut gathered)?;
                        self.append(&[RecordEntry::Lost { at: Timestamp::now() }])?;
                        return Err(chain(&error));
                    }
                },
            }
        }
    }

    /// The connections that are there when recording begins.
    async fn present(&mut self, mask: u32) -> Result<Vec<Gathered>, String> {
        let at = Timestamp::now();
        self.append(&[RecordEntry::Started { at }])?;
        let mut flows: Vec<Flow> = Vec::new();
        let mut table = FlowTable::open().map_err(|error| chain(&error))?;
        table.list(mask, |flow| flows.push(flow)).await.map_err(|error| chain(&error))?;
        Ok(flows.into_iter().map(|flow| self.gathered(at, FlowEvent::Began(flow), true)).collect())
    }

    fn gathered(&self, at: Timestamp, event: FlowEvent, before: bool) -> Gathered {
        Gathered { at, owner: self.owner(&event), event, before }
    }

    fn owner(&self, event: &FlowEvent) -> Option<Owner> {
        match event {
            FlowEvent::Began(flow) => self.names.borrow().owner(flow.mark, flow.original.source.ip()),
            FlowEvent::Ended(_) => None,
        }
    }

    fn write(&mut self, gathered: &mut Vec<Gathered>) -> Result<(), String> {
        let mut entries = Vec::with_capacity(gathered.len());
        for Gathered { at, event, before, owner } in gathered.drain(..) {
            match event {
                FlowEvent::Ended(flow) => entries.push(RecordEntry::Ended { at, translation: translation(&flow) }),
                FlowEvent::Began(flow) => {
                    // A pod that was not known yet may be by now.
                    let known = owner.filter(|owner| !owner.pod.is_empty() || !owner.node.is_empty());
                    if let Some(owner) = known.or_else(|| self.owner(&event)) {
                        entries.push(RecordEntry::Began { at, before, translation: translation(&flow), owner });
                    }
                }
            }
        }
        self.append(&entries)
    }

    fn append(&mut self, entries: &[RecordEntry]) -> Result<(), String> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.files.begins() {
            self.writer = SegmentWriter::default();
        }
        let mut bytes = Vec::new();
        for entry in entries {
            self.writer.write(entry, &mut bytes);
        }
        self.files.append(&bytes).map_err(|error| format!("write the NAT record: {error}"))?;
        self.fault = None;
        Ok(())
    }

    /// Logs a fault once.
    fn note(&mut self, error: &str) {
        if self.fault.as_deref() != Some(error) {
            tracing::warn!(error, "the NAT record has a gap");
            self.fault = Some(error.to_owned());
        }
    }
}

fn translation(flow: &Flow) -> Translation {
    Translation {
        protocol: flow.protocol,
        opened_by: flow.original.source,
        destination: flow.reply.source,
        translated: flow.reply.destination,
    }
}
