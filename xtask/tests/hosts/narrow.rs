//! Too little of something: no place to write, few file descriptors.

use std::{fs, net::TcpStream, os::unix::fs::symlink, path::Path, process::Command};

use xtask::lab::{Cluster, Dump, Family, Launch, run, skip_unless, wait};

use super::{TOOLS, same_again, wait_converged, wait_status};

#[test]
fn a_read_only_directory_and_a_planted_link_in_the_subnet_files_place() {
    if skip_unless(&TOOLS) {
        return;
    }
    let cluster = Cluster::builder("fhread").nodes(2).start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    let home = tempfile::tempdir().unwrap();
    let (place, victim) = (home.path().join("place"), home.path().join("victim"));
    fs::create_dir(&place).unwrap();
    fs::write(&victim, "not ours\n").unwrap();
    symlink(&victim, place.join("subnet.env")).unwrap();
    node.stop().unwrap();
    let ping = cluster.ping(1, 2, Family::V4).unwrap();
    // Read-only for the daemon alone.
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let place_text = place.display().to_string();
    let launch = Launch {
        wrapper: ["unshare", "--mount", "sh", "-ec", script, &place_text].map(String::from).to_vec(),
        args: vec![format!("--subnet-file={place_text}/subnet.env")],
        ..Launch::default()
    };
    node.start_with(&launch).unwrap();
    let status = wait_status(node, "a degraded state", |status| status["state"] == "degraded");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("Read-only file system") && reason.contains("mount it writable"), "{reason}");
    assert!(reason.contains(&place_text), "{reason}");
    assert!(node.http("/readyz").unwrap().starts_with("HTTP/1.1 503"), "pods must not start without it");
    let said = node.log().matches("cannot publish").count();
    // Absence can only be seen by waiting: it is tried every second.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!((said, node.log().matches("cannot publish").count()), (1, 1), "said once:\n{}", node.log());

    let pid = node.pid().unwrap().to_string();
    let remount = ["--target", &pid, "--mount", "mount", "-o", "remount,bind,rw", &place_text];
    run(Command::new("nsenter").args(remount)).unwrap();
    wait_converged(node);
    node.wait_ready().unwrap();
    let file = place.join("subnet.env");
    wait::until("the file to be written", wait::SHORT, || fs::symlink_metadata(&file).ok()?.is_file().then_some(()))
        .unwrap();
    assert!(fs::read_to_string(&file).unwrap().contains("FLANNEL_SUBNET="));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "not ours\n", "the link was replaced, not followed");
    assert_eq!(mode(&file), 0o644);
    ping.stop().assert_nothing_lost();
}

fn mode(path: &Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o7777
}

#[test]
fn sixty_four_file_descriptors_are_enough_and_no_stranger_takes_them() {
    if skip_unless(&[&TOOLS[..], &["prlimit"]].concat()) {
        return;
    }
    let wrapper = ["prlimit", "--nofile=64:64"].map(String::from).to_vec();
    let launch = Launch { wrapper, ..Launch::default() };
    let cluster = Cluster::builder("fhfds").nodes(2).dual_stack().launches(vec![launch]).start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    wait_converged(node);
    let before = Dump::of(node.netns()).unwrap();
    let ping = cluster.ping(1, 2, Family::V4).unwrap();

    // Somebody connects to the health port and says nothing, as often as he can.
    let idle: Vec<_> = node
        .netns()
        .enter(|| (0..100).filter_map(|_| TcpStream::connect(("127.0.0.1", 10256)).ok()).collect::<Vec<_>>())
        .unwrap();
    assert!(idle.len() >= 64, "{} connections", idle.len());
    node.netns().run("nft delete table inet flannel-ctl").unwrap();
    node.netns().run("ip -6 route flush proto 102").unwrap();
    same_again(node, &before);
    let status = wait_converged(node);
    assert_eq!(status["source"]["connected"], true, "{status:#}");
    // The store comes back while he is still there.
    cluster.store().kill().unwrap();
    wait_status(node, "the outage", |status| status["source"]["connected"] == false);
    cluster.start_store().unwrap();
    wait_status(node, "the store again", |status| status["source"]["connected"] == true);
    drop(idle);
    wait::until("the health port to answer again", wait::LONG, || {
        node.http("/readyz").ok()?.starts_with("HTTP/1.1 200").then_some(())
    })
    .unwrap();
    let log = node.log();
    assert!(!log.contains("Too many open files"), "{log}");
    ping.stop().assert_nothing_lost();
}
