//! What the programs cost the verifier, so that a change that makes them much dearer is one on purpose.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use flannel_ctl::kernel::fastpath::{Hook, Sizes, trial::Trial};

use crate::skipped;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bpf/instructions.txt");
/// Verifiers of different kernels go different ways through a program, and compilers arrange it in different ways.
const TOLERANCE_PERCENT: u64 = 20;

const HEAD: &str = "\
# Instructions that the verifier goes through (verified_insns), by program; the kernel's limit is 1,000,000.
# A test compares them: no more than 20 % above or below. After a change on purpose:
#     FLANNEL_INSTRUCTIONS=write cargo test -p flannel-ctl --test bpf instructions
";

#[test]
fn the_verifier_goes_through_as_many_instructions_as_is_written_down() {
    if skipped(&[]) {
        return;
    }
    let trial = Trial::load(Sizes { flows: 16, peers: 16, pods: 16 }).unwrap();
    let counts: BTreeMap<_, _> = Hook::ALL
        .into_iter()
        .map(|hook| (hook.program(), u64::from(trial.verified_instructions(hook).unwrap())))
        .collect();
    if std::env::var("FLANNEL_INSTRUCTIONS").is_ok_and(|value| value == "write") {
        let mut text = HEAD.to_owned();
        for (program, count) in &counts {
            writeln!(text, "{program} {count}").unwrap();
        }
        fs::write(FILE, text).unwrap();
    }
    let written = fs::read_to_string(FILE).unwrap();
    let written: BTreeMap<_, u64> = written
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(program, count)| (program, count.parse().unwrap()))
        .collect();
    assert!(counts.keys().eq(written.keys()), "{FILE} lists other programs than there are: {written:?}");
    for (program, count) in counts {
        let expected = written[program];
        assert!(
            count.abs_diff(expected) * 100 <= expected * TOLERANCE_PERCENT,
            "{program}: {count} instructions; {FILE} says {expected}, and how to write it anew"
        );
    }
}
