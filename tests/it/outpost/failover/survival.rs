//! `make survival`: how many open connections live on when a gateway loses power and its addresses move, over many deaths.
//!
//! Deliberately absent: any judgement but that of the issue, 99 of 100.

use std::collections::BTreeMap;
use std::time::Duration;

use super::transfers::{MOVING6, die, hold_both, with_moving_addresses};
use super::{MOVING, Outcome, STANDBY, ip};
use crate::lab::{Heard, LabError, Listener, LongConnection, OUTPOST, OUTPOST6};

/// Of each kind, for each death: 1,120 connections over 20 deaths.
const EACH: usize = 7;
/// Both ends may wait for their next attempt to send again.
const PATIENCE: Duration = Duration::from_secs(20);

enum Open {
    Both(LongConnection),
    ServerAlone(Listener),
}

/// The kinds, each with how many lived on and how many there were.
type Tally = BTreeMap<&'static str, (usize, usize)>;

fn one(tally: &mut Tally) -> Outcome {
    let mut stand = with_moving_addresses()?;
    let mut open: Vec<(&'static str, Open)> = Vec::new();
    let lab = &stand.lab;
    for _ in 0..EACH {
        open.push(("TCP, both ways, IPv4", Open::Both(lab.long_connection("tiefighter", OUTPOST)?)));
        open.push(("TCP, both ways, IPv6", Open::Both(lab.long_connection("tiefighter", OUTPOST6)?)));
        open.push(("TCP, server alone, IPv4", Open::ServerAlone(lab.listener("tiefighter", OUTPOST)?)));
        open.push(("TCP, server alone, IPv6", Open::ServerAlone(lab.listener("tiefighter", OUTPOST6)?)));
        open.push(("UDP, both ways, IPv4", Open::Both(lab.long_datagrams("tiefighter", OUTPOST)?)));
        open.push(("UDP, both ways, IPv6", Open::Both(lab.long_datagrams("tiefighter", OUTPOST6)?)));
        open.push(("UDP, server alone, IPv4", Open::ServerAlone(lab.datagram_listener("tiefighter", OUTPOST)?)));
        open.push(("UDP, server alone, IPv6", Open::ServerAlone(lab.datagram_listener("tiefighter", OUTPOST6)?)));
    }
    let lives = |one: &mut Open| match one {
        Open::Both(connection) => {
            // A datagram may be lost on the way to a gateway that is just being replaced.
            let seen = (0..5).find_map(|_| connection.echo().ok());
            seen.is_some_and(|seen| [ip(MOVING), ip(MOVING6)].contains(&seen))
        }
        Open::ServerAlone(listener) => listener.hears(PATIENCE) == Heard::Tick,
    };
    assert!(open.iter_mut().all(|(_, one)| lives(one)), "all are open before");
    die(&mut stand)?;
    hold_both(&stand, STANDBY)?;
    // All of them, so that the standby knows the others when the first is asked.
    stand.await_words("kind-worker", "connections given to the gateway")?;
    for (kind, connection) in &mut open {
        let (alive, all) = tally.entry(kind).or_default();
        *alive += usize::from(lives(connection));
        *all += 1;
    }
    Ok(())
}

#[test]
#[ignore = "`make survival`: some minutes"]
fn at_least_99_of_100_connections_survive() -> Outcome {
    let deaths: usize = std::env::var("EGRET_KILLS").ok().and_then(|deaths| deaths.parse().ok()).unwrap_or(20);
    let mut tally = Tally::new();
    for _ in 0..deaths {
        one(&mut tally)?;
    }
    println!("| connections | lived on | of |\n|---|---|---|");
    for (kind, (alive, all)) in &tally {
        println!("| {kind} | {alive} | {all} |");
    }
    let (alive, all) = tally.values().fold((0, 0), |(alive, all), one| (alive + one.0, all + one.1));
    println!("| all | {alive} | {all} |");
    if alive * 100 < all * 99 {
        return Err(LabError::Found(format!("{alive} of {all} lived on")));
    }
    Ok(())
}
