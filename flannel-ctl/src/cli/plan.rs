//! `flannel-ctl plan`.

use std::{fmt::Write as _, process::ExitCode};

use serde::Serialize;

use super::{invocation::USAGE, logging, run_args::RunArgs};
use crate::{
    config::{Settings, chosen},
    daemon::preview::{Change, Preview, preview},
    output::{self, OutputArgs},
    plan::explain::explain,
    serve::{report::Report, socket},
};

/// What the verb has to say beyond its options.
pub const AFTER_HELP: &str = "\
Takes the options of `run`, and needs the same rights. Nothing is changed: no lease is taken, no file written. \
While the daemon runs with the same options and is converged there is nothing to do; if its options are others, that is told first.

Exit codes: 0 whatever there is to do, 1 the plan could not be made, 2 bad options or network config.";

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub options: RunArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// One change. Field names are for ever.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Item {
    /// `add`, `change`, `remove`; `refuse` for a lease that is not believed.
    change: &'static str,
    object: String,
    text: String,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = args.options.settings()?;
    logging::only_warnings()?;
    tell_of_other_options(&settings);
    match preview(&settings) {
        Ok(preview) => {
            let items = items(&preview);
            output::print(args.output.output, &items, |items| render(items, &preview.notes))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            tracing::error!("{error}");
            Ok(if error.is_config() { ExitCode::from(USAGE) } else { ExitCode::FAILURE })
        }
    }
}

/// What a daemon that runs does is compared with what it would do with the options given here.
fn tell_of_other_options(settings: &Settings) {
    let Ok(report) = socket::ask::<Report>(&settings.paths.run_dir, "/status") else { return };
    let differences = report.options.map(|there| chosen::differences(&there, &settings.chosen)).unwrap_or_default();
    if !differences.is_empty() {
        tracing::warn!(
            "the daemon of {} (pid {}) runs with other options ({}): this is what starting it anew with those given here would change",
            settings.paths.run_dir.display(),
            report.pid,
            differences.join("; "),
        );
    }
}

fn items(preview: &Preview) -> Vec<Item> {
    let word = |change| match change {
        Change::Add => "add",
        Change::Change => "change",
        Change::Remove => "remove",
    };
    let steps = preview.steps.iter().map(|step| Item {
        change: word(step.change),
        object: step.object.clone(),
        text: step.text.clone(),
    });
    let ops = preview.ops.iter().map(|op| {
        let change = match (&op.from, &op.to) {
            (None, _) => Change::Add,
            (Some(_), Some(_)) => Change::Change,
            (Some(_), None) => Change::Remove,
        };
        Item { change: word(change), object: op.key.to_string(), text: explain(op) }
    });
    let refused = preview.refused.iter().map(|(key, reason)| Item {
        change: "refuse",
        object: format!("lease {key}"),
        text: format!("refuse lease {key}: {reason}"),
    });
    steps.chain(ops).chain(refused).collect()
}

fn render(items: &[Item], notes: &[String]) -> String {
    let mut text = String::new();
    for item in items {
        text += &output::printable(&item.text);
        text.push('\n');
    }
    for note in notes {
        writeln!(text, "note: {}", output::printable(note)).expect("writing to a String cannot fail");
    }
    let count = |change| items.iter().filter(|item| item.change == change).count();
    let refused = match count("refuse") {
        0 => String::new(),
        1 => "; 1 lease is refused".into(),
        several => format!("; {several} leases are refused"),
    };
    let (add, change, remove) = (count("add"), count("change"), count("remove"));
    if add + change + remove == 0 {
        writeln!(text, "nothing to do{refused}")
    } else {
        writeln!(text, "{add} to add, {change} to change, {remove} to remove{refused}")
    }
    .expect("writing to a String cannot fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        daemon::preview::Step,
        model::{Key, Mac, Object, Op, Route, Via},
    };

    fn some() -> Preview {
        let route = |via| Some(Object::Route(Route::ours(via)));
        let overlay = Via::Overlay { nexthop: true };
        Preview {
            steps: vec![Step { change: Change::Add, object: "lease".into(), text: "lease a free subnet".into() }],
            ops: vec![
                Op {
                    key: Key::Neighbour("10.5.1.0".parse().unwrap()),
                    from: None,
                    to: Some(Object::Neighbour(Mac([2; 6]))),
                },
                Op { key: Key::Route("10.5.1.0/24".parse().unwrap()), from: route(Via::Other), to: route(overlay) },
                Op { key: Key::Route("10.5.2.0/24".parse().unwrap()), from: route(overlay), to: None },
            ],
            refused: [("10.5.9.0-24".to_owned(), "no good\u{1b}[2J".to_owned())].into(),
            notes: vec!["by lot".into()],
        }
    }

    #[test]
    fn one_line_per_change_and_counts_at_the_end() {
        let preview = some();
        insta::assert_snapshot!(render(&items(&preview), &preview.notes));
    }

    #[test]
    fn field_names_stay() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&items(&some())).unwrap());
    }

    #[test]
    fn a_refused_lease_is_nothing_to_do() {
        let preview = Preview { steps: Vec::new(), ops: Vec::new(), notes: Vec::new(), ..some() };
        assert!(render(&items(&preview), &[]).ends_with("nothing to do; 1 lease is refused\n"));
        assert_eq!(render(&[], &[]), "nothing to do\n");
    }
}
