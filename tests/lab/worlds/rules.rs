//! The rule sets that others have on a world's nodes, filled in with its addresses.
//!
//! Deliberately absent: the texts themselves (`rules/`), and anything of Egret's.

use std::process::Command;

use super::dimensions::{Family, Firewall, Ipam, Marks, Masquerade, Services, World};
use super::layout::{self, Node, SERVER};
use crate::lab::{LabError, Namespace, run};

const KUBE_PROXY_NFT: &str = include_str!("rules/kube_proxy.nft");
const KUBE_PROXY_IPTABLES: &str = include_str!("rules/kube_proxy.iptables");
const DOCKER: &str = include_str!("rules/docker.iptables");
const FLANNEL: &str = include_str!("rules/flannel.iptables");
const FIREWALLD: &str = include_str!("rules/firewalld.nft");
const CALICO: &str = include_str!("rules/calico.iptables");
const AWS: &str = include_str!("rules/aws_vpc_cni.nft");
const TAILSCALE: &str = include_str!("rules/tailscale.iptables");

/// Every bit of what pods send is set before anything else looks, and once more behind destination NAT; but for kube-proxy's, with which everything
/// would be masqueraded.
const SET_IN_FRONT: &str = "table inet somebody {
  chain first { type filter hook prerouting priority -299; policy accept; iifname { \"lxc*\", \"cni0\" } meta mark set 0xffffbfff; }
  chain later { type filter hook prerouting priority dstnat + 10; policy accept; iifname { \"lxc*\", \"cni0\" } meta mark set 0xffffbfff; }
}
";

/// The packet mark is gone behind the routing decision, and another one is there before and behind source NAT. Kube-proxy's bit stays, or it would
/// be broken itself.
const WIPED_BEHIND: &str = "table inet somebody {
  chain forward { type filter hook forward priority filter; policy accept; meta mark set meta mark & 0x4000; }
  chain before { type filter hook postrouting priority mangle; policy accept; meta mark set meta mark & 0x4000; }
  chain behind { type filter hook postrouting priority srcnat + 50; policy accept; meta mark set meta mark | 0xffffbfff; }
}
";

impl World {
    /// The prefix of the names of pods' interfaces, as their CNI has it.
    pub(crate) fn link_prefix(self) -> &'static str {
        match self.marks {
            Marks::Calico => "cali",
            Marks::Aws => "eni",
            _ => "lxc",
        }
    }

    /// Puts everybody else's rules into a node.
    pub(crate) fn put_rules(self, namespace: &Namespace, node: Node) -> Result<(), LabError> {
        let mut nft = String::new();
        // Those of one family, for each family.
        let mut iptables: Vec<(Family, String)> = Vec::new();
        for family in self.families() {
            let mut add = |text: &str| iptables.push((family, self.fill(text, node, family)));
            match self.firewall {
                Firewall::Docker => add(DOCKER),
                Firewall::Flannel => add(FLANNEL),
                Firewall::None | Firewall::Firewalld => {}
            }
            match self.marks {
                Marks::Calico => add(CALICO),
                Marks::Tailscale => add(TAILSCALE),
                Marks::None | Marks::Aws | Marks::BitsSetInFront | Marks::WipedBehind => {}
            }
            match self.services {
                Services::KubeProxyIptables => add(KUBE_PROXY_IPTABLES),
                Services::KubeProxyNft => nft += &self.fill(KUBE_PROXY_NFT, node, family),
                Services::None => {}
            }
            nft += &self.masquerade_table(node, family);
        }
        match self.marks {
            Marks::Aws if self.families().contains(&Family::V4) => nft += &self.fill(AWS, node, Family::V4),
            Marks::BitsSetInFront => nft += SET_IN_FRONT,
            Marks::WipedBehind => nft += WIPED_BEHIND,
            _ => {}
        }
        if self.firewall == Firewall::Firewalld {
            nft += &self.firewalld();
        }
        if !nft.is_empty() {
            namespace.nft(&nft)?;
        }
        for (family, text) in iptables {
            let program = if family == Family::V4 { "iptables-restore" } else { "ip6tables-restore" };
            namespace.enter(|| run(Command::new(program).arg("--noflush"), &text))??;
        }
        for line in self.routing_rules() {
            namespace.exec(["ip"].into_iter().chain(line.split(' ')))?;
        }
        Ok(())
    }

    /// The routing rules that go with the marks, as `ip` takes them: a batch has no word for a rule's family.
    fn routing_rules(self) -> Vec<String> {
        match self.marks {
            Marks::Aws if self.families().contains(&Family::V4) => {
                vec!["-4 rule add priority 1024 from all fwmark 0x80/0x80 lookup main".to_owned()]
            }
            Marks::Tailscale => {
                let rules = [
                    "5210 from all fwmark 0x80000/0xff0000 lookup main",
                    "5230 from all fwmark 0x80000/0xff0000 lookup default",
                    "5250 from all fwmark 0x80000/0xff0000 unreachable",
                    "5270 from all lookup 52",
                ];
                let number = |family| if family == Family::V4 { "-4" } else { "-6" };
                let each = |family| rules.map(|rule| format!("{} rule add priority {rule}", number(family)));
                self.families().into_iter().flat_map(each).collect()
            }
            _ => Vec::new(),
        }
    }

    fn fill(self, text: &str, node: Node, family: Family) -> String {
        let four = family == Family::V4;
        let choose = |v4: &str, v6: &str| if four { v4.to_owned() } else { v6.to_owned() };
        let (server, outside) = (self.pod(SERVER, family), layout::named(family));
        let port = |address: std::net::IpAddr| std::net::SocketAddr::new(address, 8000).to_string();
        let tailscale = "-A ts-input ! -i tailscale0 -s 100.115.92.0/23 -j RETURN
-A ts-input ! -i tailscale0 -s 100.64.0.0/10 -j DROP
-A ts-input -i tailscale0 -j ACCEPT
-A ts-input -p udp -m udp --dport 41641 -j ACCEPT";
        let tailscale6 = "-A ts-input -i tailscale0 -j ACCEPT\n-A ts-input -p udp -m udp --dport 41641 -j ACCEPT";
        let pairs = [
            ("ip", choose("ip", "ip6")),
            ("addr", choose("ipv4_addr", "ipv6_addr")),
            ("loopback", choose("127.0.0.0/8", "::1/128")),
            ("docker", choose("172.17.0.0/16", "fd00:d0c::/64")),
            ("pods", self.pod_networks(family).to_owned()),
            ("internal", self.internal(node, family).to_string()),
            ("server", server.to_string()),
            ("server_port", port(server)),
            ("outside", outside.to_string()),
            ("outside_port", port(outside)),
            ("service_out", layout::service_out(family).to_string()),
            ("service_in", layout::service_in(family).to_string()),
            ("load_balancer", layout::load_balancer(family).to_string()),
            ("tailscale_input", choose(tailscale, tailscale6)),
        ];
        pairs.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
    }

    /// What the CNI hides behind the node. In a network of pods and nodes there is nothing to hide from nodes.
    fn masquerade_table(self, node: Node, family: Family) -> String {
        let ip = if family == Family::V4 { "ip" } else { "ip6" };
        let nodes = if family == Family::V4 { "172.19.7.0/24" } else { "fd00:172:19:7::/64" };
        let internal = self.internal(node, family);
        let prefix = self.link_prefix();
        // A VPC's pods are known one by one, or nodes would be taken for pods.
        let pods = if self.ipam == Ipam::Vpc {
            let all: Vec<String> = self.pods().into_iter().map(|pod| self.pod(pod, family).to_string()).collect();
            format!("{{ {} }}", all.join(", "))
        } else {
            self.pod_networks(family).to_owned()
        };
        let (but, target) = match self.masquerade {
            Masquerade::None => return String::new(),
            Masquerade::Outside => (format!("{ip} daddr != {nodes} "), "masquerade".to_owned()),
            Masquerade::AlsoNodes => (String::new(), "masquerade".to_owned()),
            Masquerade::SnatAlsoNodes => (String::new(), format!("snat {ip} to {internal}")),
        };
        format!(
            "table inet cni-{ip} {{
  chain hide {{ type nat hook postrouting priority srcnat; policy accept;
    {ip} saddr {pods} {ip} daddr != {pods} {but}oifname != {{ \"{prefix}*\", \"cni0\" }} {target}
  }}
}}
"
        )
    }

    fn firewalld(self) -> String {
        let trusted = |family: Family| {
            let (ip, nodes) =
                if family == Family::V4 { ("ip", "172.19.7.0/24") } else { ("ip6", "fd00:172:19:7::/64") };
            let pods = self.pod_networks(family);
            let both = if pods == nodes { pods.to_owned() } else { format!("{pods}, {nodes}") };
            (
                format!("{ip} saddr {{ {both} }} accept"),
                format!("{ip} saddr {pods} accept\n    {ip} daddr {pods} accept"),
            )
        };
        let (trusted4, pods4) = trusted(Family::V4);
        let (trusted6, pods6) = trusted(Family::V6);
        FIREWALLD
            .replace("{{trusted4}}", &trusted4)
            .replace("{{trusted6}}", &trusted6)
            .replace("{{pods4}}", &pods4)
            .replace("{{pods6}}", &pods6)
    }
}
