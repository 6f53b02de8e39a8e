//! Builds, runs, tests and measures flannel-ctl; [`lab`] makes clusters for tests.

pub mod lab;
