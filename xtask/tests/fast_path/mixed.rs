//! One node with the fast path, the other with its VXLAN device alone: neither can tell.

use flannel_common::Counter;
use xtask::lab::{Cluster, Family, transfer, wait};

use crate::{
    site::{Site, skipped},
    talk::Talk,
};

#[test]
fn a_fast_node_and_a_plain_one_understand_each_other() {
    if skipped(&[]) {
        return;
    }
    let plain: &[&str] = &["--datapath", "vxlan"];
    let site = Site::of(Cluster::builder("fpmixed").nodes(2).dual_stack(), &[&["--datapath", "ebpf"], plain]);
    for (client, server) in [(1, 2), (2, 1)] {
        for family in [Family::V4, Family::V6] {
            let answering = site.answering(server, family, 7000);
            for talk in [Talk::tcp, Talk::udp] {
                let talk = talk(site.pod(client), answering.address());
                talk.more(100);
                if family == Family::V4 {
                    wait::until("the fast node to send fast", wait::LONG, || {
                        let counts = site.during(1, || talk.more(200));
                        (counts.get(Counter::EgressFast) > 160).then_some(())
                    })
                    .unwrap_or_else(|error| panic!("{error}\n{}", site.flows(&[1])));
                }
                talk.whole();
            }
            let to = site.pod_ip(server, family);
            transfer(site.pod(client), site.pod(server), to, 64 << 20).unwrap();
        }
    }
    site.alive();
}
