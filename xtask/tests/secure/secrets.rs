//! Nothing secret shows anywhere, however much is asked for.

use std::{fs, process::Command};

use xtask::lab::{Etcd, EtcdCluster, Launch, flannel_ctl, skip_unless, wait};

use super::{NODE, Pki, ROOT, TOOLS, enable_users, prepare, set_password, user, wait_refused};

/// Passwords that only the daemon is told.
const WRONG: &str = "wr0ng-Geheimnis";

/// What must not be found, by name.
struct Secrets {
    texts: Vec<(&'static str, String)>,
}

impl Secrets {
    fn new(pki: &Pki) -> Self {
        let mut texts = vec![("the password", NODE.to_owned()), ("a wrong password", WRONG.to_owned())];
        for password in [NODE, WRONG] {
            // A frame or a variable that is printed as bytes.
            texts.push(("the password as bytes", format!("{:?}", password.as_bytes()).trim_matches(['[', ']']).into()));
        }
        texts.extend(pki.key_material().into_iter().map(|text| ("key material", text)));
        Self { texts }
    }

    #[track_caller]
    fn assert_absent(&self, what: &str, text: &str) {
        for (name, secret) in &self.texts {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "{what} shows {name}: {}", line.unwrap_or_default());
        }
        let line = text.lines().find(|line| has_token(line));
        assert!(line.is_none(), "{what} shows a token: {}", line.unwrap_or_default());
    }
}

/// etcd's tokens are sixteen letters, a dot and a number.
fn has_token(line: &str) -> bool {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').any(|word| {
        let Some((letters, number)) = word.split_once('.') else { return false };
        let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        numbered && letters.len() == 16 && letters.bytes().all(|byte| byte.is_ascii_alphabetic())
    })
}

/// All that can be asked of a running daemon.
fn ask(lab: &EtcdCluster, secrets: &Secrets, when: &str) {
    let one = lab.cluster.node(1);
    let pid = one.pid().unwrap();
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
    assert!(cmdline.contains("--etcd-cafile"), "{cmdline}");
    secrets.assert_absent(&format!("{when}: the command line"), &cmdline);
    secrets.assert_absent(&format!("{when}: /metrics"), &one.http("/metrics").unwrap());
    for verb in [&["status"][..], &["status", "--output", "json"], &["peers"], &["peers", "--output", "json"]] {
        let mut command = one.netns().command(flannel_ctl().unwrap());
        let output = command.args(verb).arg("--run-dir").arg(one.run_dir()).env("RUST_LOG", "trace").output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(text.contains(one.netns().name()) || verb[0] == "peers", "{verb:?}: {text}");
        secrets.assert_absent(&format!("{when}: {verb:?}"), &text);
    }
}

/// Verbs that talk to etcd themselves, with the daemon's options.
fn verbs(lab: &EtcdCluster, pki: &Pki, secrets: &Secrets, launch: &Launch) {
    let one = lab.cluster.node(1);
    let paths = |command: &mut Command| {
        command.arg("--run-dir").arg(one.run_dir()).arg("--state-dir").arg(one.state_dir()).args(["--iface", "eth0"]);
    };
    for (verb, all_options) in [
        (&["plan"][..], true),
        (&["plan", "--output", "json"], true),
        (&["check"], true),
        (&["check", "--output", "json"], true),
        (&["config", "show"], false),
        (&["leases", "list"], false),
    ] {
        let mut command = one.netns().command(flannel_ctl().unwrap());
        command.args(verb).args(["--etcd-endpoints", &lab.cluster.store().endpoint()]).args(pki.arguments(true));
        if all_options {
            paths(&mut command);
        }
        for (key, value) in &launch.env {
            command.env(key, value);
        }
        let output = command.env("RUST_LOG", "trace").output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(text.contains("10.244.") || verb[0] == "check", "{verb:?} says: {text}");
        secrets.assert_absent(&format!("{verb:?}"), &text);
    }
}

#[test]
fn no_secret_is_ever_shown() {
    if skip_unless(&TOOLS) {
        return;
    }
    let pki = Pki::new();
    let secrets = Secrets::new(&pki);
    let mut options = pki.etcd(true);
    options.client.extend(["--user".into(), format!("root:{ROOT}")]);
    let launch = |password: &str, args: &[&str], level: Option<&str>| {
        let mut launch = user(password);
        launch.args = pki.arguments(true);
        launch.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        launch.env.extend(level.map(|level| ("RUST_LOG".to_owned(), level.to_owned())));
        launch
    };
    let plain = launch(NODE, &[], None);
    let lab = prepare("fpsecr", &Etcd::endpoints(1, true), 1, options, plain.clone());
    enable_users(lab.ctl());
    lab.cluster.bring_up().unwrap();
    let one = lab.cluster.node(1);
    ask(&lab, &secrets, "plain");
    verbs(&lab, &pki, &secrets, &plain);

    for (args, level) in [(&["-v=10"][..], None), (&["--log-format=json"], Some("trace")), (&[], Some("trace"))] {
        one.stop().unwrap();
        one.start_with(&launch(NODE, args, level)).unwrap();
        one.wait_ready().unwrap();
        // A request with the token on the way that is refused, and one with a new token.
        lab.ctl().delete(&lab.own_key(1).unwrap()).unwrap();
        let key = lab.own_key(1).unwrap();
        wait::until("the lease to be back", wait::LONG, || lab.ctl().lease(&key).unwrap()).unwrap();
        ask(&lab, &secrets, &format!("{args:?} {level:?}"));
        one.stop().unwrap();
        one.start_with(&launch(WRONG, args, level)).unwrap();
        wait_refused(&lab, &["check user, password"]);
        ask(&lab, &secrets, &format!("refused, {args:?} {level:?}"));
    }
    set_password(lab.ctl(), WRONG);
    one.wait_ready().unwrap();
    let log = one.log();
    assert!(log.contains("TRACE"), "everything was asked for");
    println!("{} MB of log searched", log.len() / 1_000_000);
    secrets.assert_absent("the log", &log);

    // A command line that is refused as a whole.
    let mut command = one.netns().command(flannel_ctl().unwrap());
    command.args(["run", "--etcd-keyfile=x", "--v=loud"]).env("FLANNELD_ETCD_PASSWORD", NODE);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("etcd-password") && text.contains("etcd-username"), "{text}");
    secrets.assert_absent("the refusal of a command line", &text);
}
