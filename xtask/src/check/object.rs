//! The BPF object: built from source only, only when its source changes, and always the same.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::lint::USER_SPACE;
use super::{Outcome, Workspace};
use crate::process::{Failed, command, run};

/// The name of the object in the directory that gateway-user's build script writes to.
const OBJECT: &str = "breakout365-ebpf";
/// A source file of user space.
const USER_SPACE_SOURCE: &str = "gateway-user/src/lib.rs";

/// By content: an object under any name is one.
pub(super) fn none_committed(workspace: &Workspace) -> Result<Outcome> {
    let files = workspace.git_files(&[])?;
    for file in &files {
        let path = workspace.root.join(file);
        if path.is_file() && is_bpf_object(&path)? {
            bail!("{} is a BPF object: remove it, the build makes its own", file.display());
        }
    }
    Ok(Outcome::Holds(format!("{} files", files.len())))
}

/// A change in user space compiles user space, and not the BPF programs.
pub(super) fn left_alone(workspace: &Workspace) -> Result<Outcome> {
    let object = Build::of(workspace)?.object;
    let modified = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let before = modified(&object)?;
    File::options()
        .append(true)
        .open(workspace.root.join(USER_SPACE_SOURCE))
        .and_then(|file| file.set_modified(SystemTime::now()))
        .with_context(|| format!("cannot touch {USER_SPACE_SOURCE}"))?;
    let after = Build::of(workspace)?;
    if !after.compiled_user_space {
        bail!("a change in {USER_SPACE_SOURCE} compiled nothing, so this check shows nothing");
    }
    if after.object != object || modified(&object)? != before {
        bail!("a change in {USER_SPACE_SOURCE} rebuilt {}", object.display());
    }
    Ok(Outcome::Holds(String::new()))
}

/// The object of this directory, and one built by the same build script from a copy elsewhere
/// with nothing to share, are the same bytes; and the compiler had nothing to say.
pub(super) fn reproducible(workspace: &Workspace) -> Result<Outcome> {
    let build = Build::of(workspace)?;
    let here = fs::read(&build.object)?;
    let elsewhere = tempfile::tempdir().context("cannot make a temporary directory")?;
    let source = elsewhere.path().join("a clone of another name");
    copy_source(workspace, &source)?;
    let out = elsewhere.path().join("out");
    fs::create_dir(&out)?;
    let printed = run(command(&build.script)
        .current_dir(source.join("gateway-user"))
        // What cargo tells a build script of its target, as far as aya-build asks.
        .env("OUT_DIR", &out)
        .env("CARGO_CFG_TARGET_ARCH", std::env::consts::ARCH)
        .env("CARGO_CFG_TARGET_ENDIAN", if cfg!(target_endian = "big") { "big" } else { "little" })
        .env_remove("CARGO_FEATURE_PACKET_LOG")
        .env_remove("CARGO_TARGET_DIR"))?;
    let there = fs::read(out.join(OBJECT)).context("the build elsewhere made no object")?;
    if printed.stdout.contains("cargo:warning=warning") {
        let what = "compiling the BPF programs gives warnings".to_owned();
        return Err(Failed { what, output: printed.stdout }.into());
    }
    let (here, there) = (sha256(&here), sha256(&there));
    if here != there {
        bail!("{} is {here} here, but built elsewhere {there}", build.object.display());
    }
    Ok(Outcome::Holds(format!("sha256 {here}")))
}

/// What a build of user space did.
struct Build {
    /// The BPF object it embeds.
    object: PathBuf,
    /// gateway-user's build script, compiled.
    script: PathBuf,
    /// Whether gateway-user's library was compiled, not found up to date.
    compiled_user_space: bool,
}

impl Build {
    fn of(workspace: &Workspace) -> Result<Self> {
        let printed = run(workspace
            .cargo()
            .args(["build", "--message-format", "json-render-diagnostics"])
            .args(USER_SPACE))?;
        let messages: Vec<Value> =
            printed.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of_gateway_user = |reason: &str, kind: Option<&str>| {
            let message = messages.iter().find(|message| {
                message["reason"] == reason
                    && message["package_id"]
                        .as_str()
                        .is_some_and(|id| id.contains("/gateway-user#"))
                    && kind.is_none_or(|kind| message["target"]["kind"][0] == kind)
            });
            message.with_context(|| format!("cargo reports no {reason} for gateway-user"))
        };
        let text = |value: &Value| {
            value.as_str().map(str::to_owned).context("cargo's report lacks a path")
        };
        let executed = of_gateway_user("build-script-executed", None)?;
        let script = of_gateway_user("compiler-artifact", Some("custom-build"))?;
        let library = of_gateway_user("compiler-artifact", Some("lib"))?;
        Ok(Self {
            object: Path::new(&text(&executed["out_dir"])?).join(OBJECT),
            script: text(&script["filenames"][0])?.into(),
            compiled_user_space: library["fresh"] == false,
        })
    }
}

fn is_bpf_object(path: &Path) -> io::Result<bool> {
    let mut header = Vec::new();
    File::open(path)?.take(20).read_to_end(&mut header)?;
    Ok(is_bpf_header(&header))
}

/// ELF with `e_machine` `EM_BPF`, 247, in either byte order.
fn is_bpf_header(header: &[u8]) -> bool {
    header.starts_with(b"\x7fELF") && matches!(header.get(18..20), Some([247, 0] | [0, 247]))
}

/// Copies what git has or would add: what a commit of this directory would hold.
fn copy_source(workspace: &Workspace, to: &Path) -> Result<()> {
    for file in workspace.git_files(&["--cached", "--others", "--exclude-standard"])? {
        let (from, to) = (workspace.root.join(&file), to.join(&file));
        // Not there: deleted, and not yet committed.
        if !from.is_file() {
            continue;
        }
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(machine: [u8; 2]) -> Vec<u8> {
        let mut header = vec![0; 20];
        header[..4].copy_from_slice(b"\x7fELF");
        header[18..].copy_from_slice(&machine);
        header
    }

    #[test]
    fn a_bpf_object_is_known_by_its_header_in_both_byte_orders() {
        assert!(is_bpf_header(&header([247, 0])));
        assert!(is_bpf_header(&header([0, 247])));
        assert!(!is_bpf_header(&header([62, 0])), "x86-64");
        assert!(!is_bpf_header(&header([247, 0])[..19]), "cut short");
        assert!(!is_bpf_header(b"text that is long enough to hold a header"));
    }
}
