//! Build-time code: the BPF object and the gRPC glue of the embedded store.
//!
//! `FLANNEL_BPF` says what happens to the BPF object:
//!
//! - `auto`, or unset: built if nightly Rust, rust-src and bpf-linker are there; else an empty object,
//!   and one warning that names what is missing
//! - `stub`: never built
//! - `require`: built, or the build fails with that one line

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

fn main() -> ExitCode {
    etcd_service();
    match bpf() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo:error={error}");
            ExitCode::FAILURE
        }
    }
}

/// Puts the object at `OUT_DIR/flannel-ebpf` and sets `cfg(bpf_object)` if it is a real one.
fn bpf() -> Result<(), Box<dyn Error>> {
    println!("cargo:rustc-check-cfg=cfg(bpf_object)");
    println!("cargo:rerun-if-env-changed=FLANNEL_BPF");
    println!("cargo:rerun-if-changed=build.rs");
    let mode = env::var("FLANNEL_BPF").unwrap_or_default();
    let missing = match mode.as_str() {
        "stub" => return embed_nothing(),
        "" | "auto" | "require" => missing_tool(),
        other => return Err(format!("FLANNEL_BPF={other}: expected auto, stub or require").into()),
    };
    match missing {
        None => embed_object(),
        Some(line) if mode == "require" => Err(format!("FLANNEL_BPF=require, but {line}").into()),
        Some(line) => {
            println!("cargo:warning=built without the BPF fast path: {line}");
            embed_nothing()
        }
    }
}

fn embed_nothing() -> Result<(), Box<dyn Error>> {
    let object = PathBuf::from(env::var("OUT_DIR")?).join("flannel-ebpf");
    fs::write(&object, []).map_err(|error| format!("writing {}: {error}", object.display()))?;
    Ok(())
}

fn embed_object() -> Result<(), Box<dyn Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../flannel-ebpf");
    println!("cargo:rerun-if-changed={root}/../flannel-common");
    // SAFETY: a build script that has started no thread; nobody else reads the environment meanwhile.
    unsafe {
        // aya-build passes every line of the inner cargo on as a warning; a clean build has none to say.
        env::set_var("CARGO_TERM_QUIET", "true");
    }
    let package = aya_build::Package { name: "flannel-ebpf", root_dir: root, ..aya_build::Package::default() };
    aya_build::build_ebpf([package], aya_build::Toolchain::default())
        .map_err(|error| format!("building the BPF programs (FLANNEL_BPF=stub builds without them): {error:#}"))?;
    println!("cargo:rustc-cfg=bpf_object");
    Ok(())
}

/// What the BPF build needs and does not find, with the command that installs it.
fn missing_tool() -> Option<String> {
    let Some(sysroot) = answer("rustup", &["run", "nightly", "rustc", "--print", "sysroot"]) else {
        return Some(
            "nightly Rust is missing: install it with: \
             rustup toolchain install nightly --profile minimal --component rust-src"
                .into(),
        );
    };
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Some("rust-src is missing: install it with: rustup component add rust-src --toolchain nightly".into());
    }
    answer("bpf-linker", &["--version"])
        .is_none()
        .then(|| "bpf-linker is missing: install it with: cargo install bpf-linker --version 0.10.3 --locked".into())
}

/// Standard output of a command that can be run and succeeds.
fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Generates the server traits for the part of etcd's API that the store speaks. The messages are written by hand in
/// `src/store/proto.rs`, so no protobuf compiler is needed.
fn etcd_service() {
    use tonic_build::manual::{Builder, Method, Service, ServiceBuilder};

    let method = |rust: &str, route: &str, message: &str| {
        Method::builder()
            .name(rust)
            .route_name(route)
            .input_type(format!("crate::store::proto::{message}Request"))
            .output_type(format!("crate::store::proto::{message}Response"))
            .codec_path("tonic_prost::ProstCodec")
    };
    let unary = |rust: &str, route: &str, message: &str| method(rust, route, message).build();
    let stream = |rust: &str, route: &str, message: &str| {
        method(rust, route, message).client_streaming().server_streaming().build()
    };
    let service = |name: &str, methods: Vec<Method>| {
        methods.into_iter().fold(Service::builder().name(name).package("etcdserverpb"), ServiceBuilder::method).build()
    };
    Builder::new().build_client(false).compile(&[
        service(
            "KV",
            vec![
                unary("range", "Range", "Range"),
                unary("put", "Put", "Put"),
                unary("delete_range", "DeleteRange", "DeleteRange"),
                unary("txn", "Txn", "Txn"),
                unary("compact", "Compact", "Compaction"),
            ],
        ),
        service("Watch", vec![stream("watch", "Watch", "Watch")]),
        service(
            "Lease",
            vec![
                unary("lease_grant", "LeaseGrant", "LeaseGrant"),
                unary("lease_revoke", "LeaseRevoke", "LeaseRevoke"),
                stream("lease_keep_alive", "LeaseKeepAlive", "LeaseKeepAlive"),
                unary("lease_time_to_live", "LeaseTimeToLive", "LeaseTimeToLive"),
                unary("lease_leases", "LeaseLeases", "LeaseLeases"),
            ],
        ),
        service("Maintenance", vec![unary("status", "Status", "Status"), unary("alarm", "Alarm", "Alarm")]),
        service("Cluster", vec![unary("member_list", "MemberList", "MemberList")]),
    ]);
}
