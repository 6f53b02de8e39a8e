//! lane: netns
//!
//! The embedded store, driven as its clients drive it.

mod bulk;
mod client;
mod crash;
mod differential;
mod etcdctl;
mod files;
mod process;
mod tls;
mod watch;
mod wire;

use flannel_ctl::store::server::{Handle, Options, spawn};

/// A store inside the test, on a free port and a file of its own.
struct Running {
    handle: Handle,
    directory: tempfile::TempDir,
}

impl Running {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(adjust: impl FnOnce(&mut Options)) -> Self {
        Self::in_directory(directory(), adjust).await
    }

    async fn in_directory(directory: tempfile::TempDir, adjust: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new(([127, 0, 0, 1], 0).into(), directory.path().join("store.redb"));
        adjust(&mut options);
        Self { handle: spawn(options).await.expect("the store starts"), directory }
    }

    async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.handle.address().to_string()], None).await.expect("connects")
    }

    fn wire(&self) -> wire::Wire {
        wire::Wire::to(self.handle.address())
    }

    /// Stops it and starts it again on the same file.
    async fn restart(self) -> Self {
        self.handle.shutdown().await.expect("stops");
        Self::in_directory(self.directory, |_| {}).await
    }
}

/// A directory of one test: in memory where there is such a place, since nothing here needs to outlive the machine;
/// STORE_TEST_DIR names another, to measure a disk.
fn directory() -> tempfile::TempDir {
    let place = std::env::var_os("STORE_TEST_DIR").map_or_else(|| "/dev/shm".into(), std::path::PathBuf::from);
    let place = if place.is_dir() { place } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).expect("a directory")
}
