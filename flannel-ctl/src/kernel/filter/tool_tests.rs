use super::*;

const LONG: Duration = Duration::from_mins(1);

fn shell(script: &str, input: &str, limit: Duration) -> (Result<String, KernelError>, Children, u32) {
    let (mut children, mut process) = (Children::default(), 0);
    let outcome = children.run("sh", &["-c", script], input, limit, &mut |id| process = id);
    (outcome, children, process)
}

/// Gone, not even a zombie.
fn is_gone(process: u32) -> bool {
    !std::path::Path::new(&format!("/proc/{process}")).exists()
}

fn until(mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < limit, "timed out");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn more_than_a_pipe_holds_goes_in_and_out() {
    let text = "flannel".repeat(100_000);
    let (outcome, _, process) = shell("cat; echo oops >&2", &text, LONG);
    assert_eq!(outcome.unwrap(), text);
    assert!(is_gone(process));
}

#[test]
fn a_failure_is_told_in_the_tools_own_words() {
    let (outcome, _, _) = shell("cat >/dev/null; echo 'no such table' >&2; exit 3", "x", LONG);
    assert_eq!(outcome.unwrap_err().answer, "no such table");
    let (outcome, _, _) = shell("exit 3", &"unread".repeat(100_000), LONG);
    assert_eq!(outcome.unwrap_err().answer, "exit status: 3");
    let (outcome, _, _) = shell("echo 'Another app is currently holding the xtables lock' >&2; exit 4", "", LONG);
    assert_eq!(outcome.unwrap_err().hint, LOCKED);
}

#[test]
fn what_hangs_is_killed_and_reaped_with_all_that_it_started() {
    let file = std::env::temp_dir().join(format!("flannel-tool-{}", std::process::id()));
    let script = format!("sleep 3600 & echo $! >{}; wait", file.display());
    let (outcome, mut children, process) = shell(&script, "", Duration::from_secs(2));
    let error = outcome.unwrap_err();
    assert_eq!((error.answer.as_str(), error.errno), ("no answer within 2 s", Errno::ETIMEDOUT as i32));
    until(|| {
        children.reap();
        is_gone(process)
    });
    let started = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    // Reaped by init, or by nobody in a container without one; dead in any case.
    until(|| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", started.trim()));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn one_that_closes_its_pipes_and_stays_is_not_waited_for() {
    let (outcome, mut children, process) = shell("exec >&- 2>&- <&-; exec sleep 3600", "", Duration::from_millis(300));
    assert_eq!(outcome.unwrap_err().errno, Errno::ETIMEDOUT as i32);
    until(|| {
        children.reap();
        is_gone(process)
    });
}
