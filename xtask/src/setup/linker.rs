//! The bpf-linker that fits a compiler.
//!
//! bpf-linker reads the LLVM bitcode that rustc writes, so it wants the same LLVM. It is linked
//! with the very library that this rustc loads: nothing but a C linker is needed to build it, no
//! llvm-dev package, llvm-config or C++ compiler, and its version cannot be another one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::compiler::{Compiler, llvm_of};
use super::{say, show, tools};
use crate::process::{command, run};

const VERSION: &str = "0.13.0";
/// The LLVM versions that this bpf-linker has a feature for.
const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// Finds or builds the linker for `compiler`: `current`, else the one kept in `cache`, else new.
pub(super) fn ensure(current: &Path, cache: &Path, compiler: &Compiler) -> Result<PathBuf> {
    // One place per LLVM: going back to another compiler finds its linker still there.
    let root = cache.join(format!("tools/bpf-linker-{VERSION}-{}", compiler.llvm.name));
    let built = root.join("bin/bpf-linker");
    let current = fs::canonicalize(current).unwrap_or_else(|_| built.clone());
    for linker in [&current, &built] {
        if examine(linker, compiler).is_ok() {
            say("found", &format!("bpf-linker {VERSION} for {}", compiler.llvm.name));
            return Ok(linker.clone());
        }
    }
    build(&root, compiler)?;
    examine(&built, compiler)
        .with_context(|| format!("the new {} does not do", built.display()))?;
    Ok(built)
}

fn examine(linker: &Path, compiler: &Compiler) -> Result<()> {
    let printed = run(command(linker).arg("--version"))?;
    let version = printed.stdout.trim();
    if version != format!("bpf-linker {VERSION}") {
        bail!("{} is {version}", linker.display());
    }
    let llvm = llvm_of(linker)?;
    if llvm != compiler.llvm {
        bail!("{} loads {}", linker.display(), llvm.file.display());
    }
    Ok(())
}

fn build(root: &Path, compiler: &Compiler) -> Result<()> {
    let major = compiler.llvm_major;
    if !LLVM_MAJORS.contains(&major) {
        bail!(
            "bpf-linker {VERSION} knows LLVM {} to {}, and rustc has {major}: try the other \
             `cargo xtask setup --compiler`, or raise the version in xtask/src/setup/linker.rs",
            LLVM_MAJORS.start(),
            LLVM_MAJORS.end()
        );
    }
    // The linker finds the library by the first name, the program by the second.
    let library = root.join("lib");
    fs::create_dir_all(&library).with_context(|| format!("cannot create {}", library.display()))?;
    for name in ["libLLVM.so", &compiler.llvm.name] {
        let link = library.join(name);
        fs::remove_file(&link).ok();
        symlink(&compiler.llvm.file, &link)
            .with_context(|| format!("cannot link {}", link.display()))?;
    }
    say(
        "building",
        &format!("bpf-linker {VERSION} for {} (cargo install), a minute", compiler.llvm.name),
    );
    let features = format!("llvm-{major}");
    let install = run(tools::cargo_install("bpf-linker", VERSION, root)
        .env("LLVM_PREFIX", root)
        .args(["--no-default-features", "--features", &features]));
    if let Err(failed) = install {
        show(&failed);
        bail!("bpf-linker does not build, see above: mend that and run `cargo xtask setup` again");
    }
    Ok(())
}
