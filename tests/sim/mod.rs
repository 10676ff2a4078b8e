//! Deterministic simulation: the real controllers and agents on simulated time, network, API server, Git, kernels and processes. One seed is
//! one world, and the same seed is the same run.
//!
//! `make sim SEEDS=1000` tries many; `EGRET_SIM_SEED=7` repeats one and prints what was logged. A world that fails prints its seed. Not here:
//! real kernels and real Git, which the rest of `tests/it` has.

mod checker;
mod claims;
mod happenings;
mod history;
mod kernel;
mod log;
mod model;
mod network;
mod process;
mod random;
mod reports;
mod settled;
mod standalone;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::Instant;

use happenings::{Kind, Lasting};
use log::Log;
use world::World;

/// How many seeds a run tries if nobody says.
const SEEDS: u64 = 48;
/// Episodes of one world.
const EPISODES: usize = 2;

/// Runs one world. The lines that were logged, and what was wrong.
fn run(seed: u64, kinds: &[Kind]) -> (Log, Result<(), String>) {
    in_world(async |log| (log.clone(), live(seed, kinds, log).await))
}

/// Runs on simulated time.
fn in_world<T>(live: impl AsyncFnOnce(Log) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let log = Log::default();
    let _recording = log.record();
    let result = LocalSet::new().block_on(&runtime, live(log));
    runtime.shutdown_background();
    result
}

async fn live(seed: u64, kinds: &[Kind], log: Log) -> Result<(), String> {
    let mut world = World::new(seed, log);
    world.start();
    world.settle().await.map_err(|why| format!("at the start: {why}"))?;
    for _ in 0..EPISODES {
        episode(&mut world, kinds).await?;
    }
    world.idle().await
}

/// Things happen for a minute or two; then all is well, and the world settles.
async fn episode(world: &mut World, kinds: &[Kind]) -> Result<(), String> {
    let mut lasting = Lasting::default();
    let (mut minute, mut pushes) = (Instant::now(), world.pushed.len());
    for _ in 0..60 + world.random.below(60) {
        lasting.end(world, false);
        if world.random.permille(200) {
            let kind = *world.random.pick(kinds);
            lasting.happen(world, kind);
        }
        world.wait(Duration::from_secs(1)).await?;
        world.checker.all();
        world.watch(&lasting)?;
        if minute.elapsed() >= Duration::from_mins(1) {
            world.budget(minute, world.pushed.len() - pushes)?;
            (minute, pushes) = (Instant::now(), world.pushed.len());
        }
    }
    lasting.end(world, true);
    world.settle().await
}

/// What may happen: everything, or the kinds that `EGRET_SIM_KINDS` names.
fn kinds() -> Vec<Kind> {
    let named = std::env::var("EGRET_SIM_KINDS").ok();
    let is_named =
        |kind: &Kind| named.as_ref().is_none_or(|named| named.split(',').any(|name| name == format!("{kind:?}")));
    Kind::ALL.into_iter().filter(is_named).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs the seeds that the environment names, or those of every day; one alone with its log.
fn seeds(run: impl Fn(u64) -> (Log, Result<(), String>) + Sync) {
    if let Some(seed) = number("EGRET_SIM_SEED") {
        let (log, result) = run(seed);
        return assert_eq!(result, Ok(()), "seed {seed}:\n{log}");
    }
    let (first, count) = (number("EGRET_SIM_FIRST").unwrap_or(1), number("EGRET_SIM_SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(first);
    let failed = std::thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return failed;
                }
                if let (_, Err(why)) = run(seed) {
                    failed.push(format!("EGRET_SIM_SEED={seed}: {why}"));
                }
            }
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a world")).collect::<Vec<String>>()
    });
    assert!(failed.is_empty(), "{} of {count} worlds failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn no_world_lets_a_packet_out_with_a_wrong_address_or_does_not_settle() {
    let kinds = kinds();
    seeds(|seed| run(seed, &kinds));
}

#[test]
fn the_same_seed_is_the_same_run() {
    let kinds = Kind::ALL.to_vec();
    let [one, other] = [(); 2].map(|()| run(3, &kinds).0.to_string());
    let differs = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    assert_eq!(differs, None);
    assert_eq!(one.len(), other.len());
}
