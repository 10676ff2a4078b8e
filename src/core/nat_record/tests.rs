//! What records say of connections: one after the other, with gaps, and of two nodes together.

use super::segment::{SegmentWriter, read};
use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).expect("a time")
}

fn translation(opened_by: &str, translated: &str) -> Translation {
    let socket = |text: &str| text.parse().expect("an address and a port");
    Translation {
        protocol: FlowProtocol::Tcp,
        opened_by: socket(opened_by),
        destination: socket(if opened_by.starts_with('[') { "[fd00:10:4::2]:443" } else { "10.0.4.2:443" }),
        translated: socket(translated),
    }
}

fn owner(pod: &str, node: &str) -> Owner {
    let policies = if pod.is_empty() { Vec::new() } else { vec!["outpost".to_owned()] };
    Owner { pod: pod.to_owned(), node: node.to_owned(), policies, exit: "kind-worker2 dev net1".to_owned() }
}

fn began(seconds: i64, translation: Translation, owner: Owner) -> RecordEntry {
    RecordEntry::Began { at: at(seconds), before: false, translation, owner }
}

const EGRESS: &str = "10.0.3.42:40000";

fn finder(entries: Vec<RecordEntry>) -> Finder {
    let mut finder = Finder::new(EGRESS.parse().expect("an address and a port"));
    for entry in entries {
        finder.take(entry);
    }
    finder
}

#[test]
fn a_segment_is_read_back_as_it_was_written_also_one_that_was_cut() {
    let four = translation("10.1.1.254:40000", EGRESS);
    let six = translation("[fd00:10:1::fe]:40000", "[fd00:10:3::42]:40000");
    let entries = vec![
        RecordEntry::Started { at: at(0) },
        RecordEntry::Began { at: at(0), before: true, translation: four, owner: owner("", "kind-worker") },
        began(1, six, owner("batuu/tiefighter", "")),
        began(2, four, owner("", "kind-worker")),
        RecordEntry::Lost { at: at(3) },
        RecordEntry::Ended { at: at(4), translation: Translation { opened_by: four.translated, ..four } },
    ];
    let (mut writer, mut bytes) = (SegmentWriter::default(), Vec::new());
    for entry in &entries {
        writer.write(entry, &mut bytes);
    }
    let mut back = Vec::new();
    read(&bytes, |entry| back.push(entry));
    assert_eq!(back, entries);
    for length in 0..bytes.len() {
        let mut count = 0;
        read(&bytes[..length], |entry| {
            assert_eq!(entry, entries[count]);
            count += 1;
        });
        assert!(count < entries.len());
    }
    assert!(bytes.len() < 300, "{} bytes", bytes.len());
}

#[test]
fn an_address_and_port_belong_to_one_after_the_other() {
    let one = translation("10.1.1.7:40000", EGRESS);
    let two = translation("10.1.1.8:40000", EGRESS);
    let finder = finder(vec![
        RecordEntry::Started { at: at(0) },
        began(10, one, owner("batuu/one", "")),
        RecordEntry::Ended { at: at(20), translation: one },
        began(30, two, owner("batuu/two", "")),
    ]);
    let pods = |time: Option<i64>| {
        let found = finder.found(time.map(at), None);
        found.into_iter().map(|one| (one.owner.pod, one.end)).collect::<Vec<_>>()
    };
    assert_eq!(pods(Some(5)), []);
    assert_eq!(pods(Some(15)), [("batuu/one".to_owned(), End::At(at(20)))]);
    assert_eq!(pods(Some(25)), []);
    assert_eq!(pods(Some(99)), [("batuu/two".to_owned(), End::Open)]);
    assert_eq!(pods(None).len(), 2);
    assert_eq!(finder.found(None, Some(FlowProtocol::Udp)), []);
    assert_eq!((finder.since(), finder.gaps()), (Some(at(0)), &[][..]));
}

#[test]
fn what_ended_while_nobody_recorded_is_not_said_to_be_open() {
    let one = translation("10.1.1.7:40000", EGRESS);
    let gone = finder(vec![
        RecordEntry::Started { at: at(0) },
        began(10, one, owner("batuu/one", "")),
        RecordEntry::Lost { at: at(20) },
    ]);
    assert_eq!(gone.found(None, None).first().map(|one| one.end), Some(End::Unseen(at(20))));
    assert_eq!(gone.gaps(), [at(20)]);
    let there = finder(vec![
        RecordEntry::Started { at: at(0) },
        began(10, one, owner("batuu/one", "")),
        RecordEntry::Started { at: at(20) },
        RecordEntry::Began { at: at(20), before: true, translation: one, owner: owner("batuu/one", "") },
    ]);
    let found = there.found(None, None);
    assert_eq!((found.len(), found[0].start, found[0].end), (1, at(10), End::Open));
}

#[test]
fn a_gateways_connection_is_joined_with_that_of_the_source() {
    let gateway = translation("10.1.1.254:40000", EGRESS);
    let mut found = finder(vec![began(10, gateway, owner("", "kind-worker"))]).found(None, None).remove(0);
    let source = |seconds, pod: &str| Found {
        translation: translation("10.1.1.7:1234", "10.1.1.254:40000"),
        owner: owner(pod, ""),
        start: at(seconds),
        before: false,
        end: End::Open,
    };
    join(&mut found, &[source(1, "batuu/earlier"), source(9, "batuu/one"), source(60, "batuu/later")]);
    assert_eq!(found.owner, Owner { node: "kind-worker".to_owned(), ..owner("batuu/one", "") });
}

#[test]
fn names_of_a_connection_follow_from_its_mark_and_who_opened_it() {
    let pod = PodName { namespace: "batuu".to_owned(), name: "tiefighter".to_owned() };
    let names = RecordNames {
        mask: 0xff,
        pods: [(IpAddr::from([10, 1, 1, 7]), pod)].into(),
        nodes: [(IpAddr::from([10, 1, 2, 254]), NodeName::parse("other").expect("a name"))].into(),
        exits: [(1, ("kind-worker2 dev net1".to_owned(), BTreeMap::new()))].into(),
    };
    let of = |mark, opened_by: [u8; 4]| names.owner(mark, opened_by.into()).map(|owner| (owner.pod, owner.node));
    assert_eq!(of(0x701, [10, 1, 1, 7]), Some(("batuu/tiefighter".to_owned(), String::new())));
    assert_eq!(of(1, [10, 1, 2, 254]), Some((String::new(), "other".to_owned())));
    assert_eq!(of(2, [10, 1, 1, 7]), None);
}
