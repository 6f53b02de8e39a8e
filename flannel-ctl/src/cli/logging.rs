//! Where the daemon's log goes: standard error, for people or as JSON.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::settings::{LogFormat, LogSettings};

/// Sets the process's log up, once. `RUST_LOG` beats `-v`.
pub fn init(settings: LogSettings) -> anyhow::Result<()> {
    let (filter, complaint) = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(directives(settings.verbosity)), Some(error)),
        },
        _ => (EnvFilter::new(directives(settings.verbosity)), None),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let outcome = match settings.format {
        LogFormat::Human => builder.with_target(false).with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    outcome.map_err(|error| anyhow::anyhow!("set up logging: {error}"))?;
    if let Some(error) = complaint {
        tracing::warn!(%error, "RUST_LOG passed over");
    }
    Ok(())
}

/// For verbs that answer on standard output: only what they could not do goes to the log.
pub fn only_warnings() -> anyhow::Result<()> {
    let builder = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(io::stderr);
    let outcome = builder.with_target(false).without_time().with_ansi(io::stderr().is_terminal()).try_init();
    outcome.map_err(|error| anyhow::anyhow!("set up logging: {error}"))
}

/// klog's levels: 0 to 3 are for operators, 4 and 5 for debugging, 6 and above for everything.
/// Libraries stay one step behind us; the one that talks to Kubernetes calls every failed try an error, and we
/// have said it better.
fn directives(verbosity: u32) -> &'static str {
    match verbosity {
        0..=3 => "warn,kube_client=off,flannel_ctl=info",
        4..=5 => "info,kube_client=warn,flannel_ctl=debug",
        6.. => "debug,flannel_ctl=trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verbosity_is_a_valid_filter() {
        for verbosity in [0, 3, 4, 5, 6, u32::MAX] {
            assert!(EnvFilter::try_new(directives(verbosity)).is_ok());
        }
    }
}
