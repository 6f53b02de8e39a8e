//! What the manifest grants is what is needed: each right that is taken away is named.

use std::collections::BTreeSet;

use xtask::lab::Family;

use crate::site::{Site, skip};

#[test]
fn each_right_that_is_missing_is_named() {
    if skip() {
        return;
    }
    let site = Site::start("rkright", 2, &[Family::V4]);
    let role = site.server.get(&["clusterrole", "flannel-ctl"]).unwrap();
    let mut nodes = 0;
    for (resource, verb) in [("nodes", "watch"), ("nodes", "list"), ("nodes", "get"), ("nodes/status", "patch")] {
        let mut less = role.clone();
        less["metadata"]["resourceVersion"].take();
        for rule in less["rules"].as_array_mut().unwrap() {
            if rule["resources"][0] == resource {
                rule["verbs"].as_array_mut().unwrap().retain(|granted| granted != verb);
            }
        }
        // A rule without verbs is none.
        less["rules"].as_array_mut().unwrap().retain(|rule| rule["verbs"] != serde_json::json!([]));
        site.server.fed(&["replace", "-f", "-"], &less.to_string()).unwrap();
        match (resource, verb) {
            ("nodes", "get") => {
                site.cluster.node(1).stop().unwrap();
                site.cluster.node(1).start().unwrap();
            }
            ("nodes", _) => {
                // Who watches already goes on; who comes back must ask.
                site.server.kill().unwrap();
                if verb == "list" {
                    site.server.compact().unwrap();
                }
                site.server.again().unwrap();
            }
            _ => site.server.annotate(&site.name(1), &["public-ip=192.0.2.99"]).unwrap(),
        }
        let rule = format!("the verb {verb} on {resource}");
        site.wait_trouble(1, &rule);
        println!("{}", site.trouble(1));
        let mut whole = role.clone();
        whole["metadata"]["resourceVersion"].take();
        // `apply` would find nothing to do: what it applied last has not changed.
        if site.server.fed(&["replace", "-f", "-"], &whole.to_string()).is_err() {
            site.server.fed(&["create", "-f", "-"], &whole.to_string()).unwrap();
        }
        nodes += 1;
        site.ghost(
            &format!("ghost{nodes}"),
            &format!("10.244.6{nodes}.0/24"),
            &format!("192.168.66.{nodes}"),
            &format!("46:82:fb:f7:52:0{nodes}"),
        );
        site.wait_peers(1, 1 + nodes);
        site.cluster.node(1).wait_converged().unwrap();
    }
    let asked: BTreeSet<_> =
        site.server.asked().iter().map(|asked| asked.rsplit_once(' ').unwrap().0.to_owned()).collect();
    let granted = role["rules"].as_array().unwrap().iter().flat_map(|rule| {
        let resource = rule["resources"][0].as_str().unwrap();
        rule["verbs"].as_array().unwrap().iter().map(move |verb| format!("{} {resource}", verb.as_str().unwrap()))
    });
    assert_eq!(asked, granted.collect(), "the rights of the manifest are used, all of them");
    site.cluster.assert_whole();
}
