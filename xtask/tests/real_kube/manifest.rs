//! The manifest that is shipped, as an operator would apply it.

use serde_json::Value;
use xtask::lab::Underlay;

use crate::{
    server::Server,
    site::{MANIFEST, skip},
};

#[test]
fn the_manifest_is_taken_as_it_is_and_without_a_warning() {
    if skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    xtask::lab::remove_leftovers("rkman").unwrap();
    let underlay = Underlay::create("rkman-net", 1500).unwrap();
    let server = Server::start(underlay.netns(), dir.path()).unwrap();
    let apply = |more: &[&str]| server.fed(&[&["apply", "-f", MANIFEST][..], more].concat(), "").unwrap();
    let (out, err) = apply(&[]);
    assert_eq!((out.matches(" created").count(), err.as_str()), (6, ""), "{out}");
    // A server that decides without storing; it needs the namespace to be there.
    let (out, err) = apply(&["--dry-run=server"]);
    assert_eq!((out.matches(" unchanged").count(), err.as_str()), (6, ""), "{out}");
    let (out, err) = apply(&["--validate=true"]);
    assert_eq!((out.matches(" unchanged").count(), err.as_str()), (6, ""), "{out}");
    let pod = &server.get(&["daemonset", "-n", "flannel-ctl", "flannel-ctl"]).unwrap()["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["securityContext"]["privileged"], Value::Bool(true));
    assert_eq!(pod["hostNetwork"], Value::Bool(true));
}
