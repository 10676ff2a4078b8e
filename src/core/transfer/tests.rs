//! What becomes of connections when their packets take another way, what a gateway accepts, and messages.

use super::wire::{Answer, Offer, capacity};
use super::*;
use crate::core::policy::Egress;

fn exit(gateway: &str, egress: Egress) -> ExitKey {
    ExitKey { gateway: NodeName::parse(gateway).expect("a name"), egress, next_hops: Vec::new() }
}

fn connection(destination: &str) -> ExitConnection {
    let destination = destination.parse().expect("an address and a port");
    ExitConnection { protocol: FlowProtocol::Tcp, port: 40_000, destination }
}

#[test]
fn an_offer_and_an_answer_are_read_back_as_they_were() {
    for (family, to) in [(AddressFamily::V4, "10.0.4.2:443"), (AddressFamily::V6, "[fd00:10:4::2]:443")] {
        let udp = ExitConnection { protocol: FlowProtocol::Udp, ..connection(to) };
        let offer =
            Offer { transfer: 7, number: 2, exit: Mac([2, 3, 4, 5, 6, 7]), connections: vec![connection(to), udp] };
        let bytes = offer.encode();
        assert_eq!(Offer::decode(&bytes, family), Some(offer));
        for length in 0..bytes.len() {
            // What is cut between two connections is a shorter offer.
            let cut = Offer::decode(&bytes[..length], family);
            assert!(cut.is_none_or(|cut| cut.connections.len() < 2), "{length} bytes");
        }
        assert!(capacity(family) * 2 > 90 && bytes.len() < 1000);
    }
    let answer = Answer { transfer: 7, number: 2, entered: 1, known: 2, refused: 3 };
    assert_eq!(Answer::decode(&answer.encode()), Some(answer));
    assert_eq!(Answer::decode(b"egt1"), None);
    assert_eq!(Offer::decode(&answer.encode(), AddressFamily::V4), None);
}

#[test]
fn an_offer_of_the_largest_size_fits_into_the_smallest_tunnel() {
    for (family, to) in [(AddressFamily::V4, "10.0.4.2:443"), (AddressFamily::V6, "[fd00:10:4::2]:443")] {
        let connections = vec![connection(to); capacity(family)];
        let bytes = Offer { transfer: 0, number: 0, exit: Mac([0; 6]), connections }.encode();
        assert!((950..=1000).contains(&bytes.len()), "{} bytes", bytes.len());
    }
}

#[test]
fn a_gateway_accepts_what_the_policies_of_the_exit_name() {
    let allowed = ["10.0.4.0/24".parse::<ipnet::IpNet>().expect("a network")].into_iter().collect();
    let taken = TakenExit { mark: 1, address: "10.0.3.42".parse().expect("an address"), allowed };
    assert!(taken.accepts(&connection("10.0.4.2:443")));
    assert!(!taken.accepts(&connection("10.0.5.2:443")));
    assert!(!taken.accepts(&connection("10.0.4.2:0")));
    assert!(!taken.accepts(&ExitConnection { port: 0, ..connection("10.0.4.2:443") }));
}

#[test]
fn connections_are_transferred_if_they_keep_their_address_and_reset_if_they_do_not() {
    let address = |last: u8| Egress::Address(IpAddr::from([10, 0, 3, last]));
    let reached = Some(Reached { mark: 2, mac: Mac([2; 6]) });
    let plan = |carrier: ExitKey, reached: Option<Reached>| {
        let way = Way { mark: 1, tunnel: IpAddr::from([10, 1, 1, 254]), carrier, reached };
        TransferPlan { ways: [((exit("a", address(42)), AddressFamily::V4), way)].into(), ..TransferPlan::default() }
    };
    let fate = |before: &TransferPlan, now: &TransferPlan| moved(before, now).first().map(|moved| moved.fate);
    let first = plan(exit("a", address(42)), reached);
    let same = plan(exit("b", address(42)), reached);
    assert_eq!(fate(&first, &first), None);
    assert_eq!(fate(&TransferPlan::default(), &same), None, "what a new process finds in the kernel is no change");
    assert_eq!(fate(&first, &same), reached.map(Fate::Transferred));
    assert_eq!(fate(&same, &first), reached.map(Fate::Transferred), "back again as well");
    assert_eq!(fate(&first, &plan(exit("b", address(43)), reached)), Some(Fate::Reset));
    let interface = || Egress::Interface(crate::core::name::Interface::parse("net1").expect("a name"));
    let (one, other) = (plan(exit("a", interface()), reached), plan(exit("b", interface()), reached));
    assert_eq!(fate(&one, &other), Some(Fate::Reset), "an interface has an address of its own on each node");
    assert_eq!(fate(&first, &plan(exit("b", address(42)), None)), Some(Fate::Renewed));
    assert_eq!(fate(&plan(exit("b", address(42)), None), &first), Some(Fate::Renewed));
}

#[test]
fn a_source_enters_many_at_once_and_then_fewer() {
    let (one, other) = (IpAddr::from([10, 1, 1, 254]), IpAddr::from([10, 1, 2, 254]));
    let mut allowance = Allowance::default();
    let entered = (0..1000).filter(|_| allowance.take(one, 100, Duration::ZERO)).count();
    assert_eq!(entered, 200);
    assert!(allowance.take(other, 100, Duration::ZERO), "another source has its own");
    assert!(!allowance.take(one, 100, Duration::from_millis(1)));
    assert!(allowance.take(one, 100, Duration::from_millis(21)));
    allowance.retain(&[(other, NodeName::parse("other").expect("a name"))].into());
    assert!(allowance.take(one, 100, Duration::from_millis(21)));
}
