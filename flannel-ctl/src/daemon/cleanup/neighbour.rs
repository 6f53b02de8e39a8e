//! Whether flannel's own daemon is at work beside us.

use std::{fs, path::Path};

/// As the kernel knows the process; released programs are called `flanneld-amd64` and the like.
const NAME: &str = "flanneld";

/// Process id of a living flanneld in this network namespace, as far as processes can be seen from here. Ours by that name is
/// none: whoever cleans up holds its lock.
pub(super) fn flanneld() -> Option<u32> {
    let namespace = |process: &Path| fs::read_link(process.join("ns/net")).ok();
    let here = namespace(Path::new("/proc/self"))?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let path = entry.path();
        let comm = fs::read_to_string(path.join("comm")).ok()?;
        let named = comm.trim_end().strip_prefix(NAME).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        (named && pid != std::process::id() && namespace(&path)? == here).then_some(pid)
    })
}
