//! Debian's kernels: fetched from the archive that this machine's apt uses, and unpacked into the
//! cache. Nothing is installed, and the machine's own sources stay as they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use super::series::Series;
use super::step;
use crate::process::{Printed, command, run};
use crate::setup::origins;

/// The package that depends on the newest kernel of a suite. The flavour for virtual machines: it
/// has what is needed, and half the size.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Packages that hold parts of a kernel.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
/// Debian's own keys, where its package of them is installed.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel, unpacked.
#[derive(Debug)]
pub(super) struct Kernel {
    /// What `uname -r` says under it.
    pub(super) release: String,
    /// What is booted.
    pub(super) image: PathBuf,
    /// Its modules, with directories as the source has them.
    pub(super) modules: PathBuf,
}

/// The newest kernel of `series`, kept in `directory`. Where nothing can be fetched, the one that
/// was fetched last.
///
/// # Errors
///
/// There is none.
pub(super) fn kernel(series: Series, directory: &Path) -> Result<Kernel> {
    let unpacked = directory.join("unpacked");
    let fetched =
        Archive::of_this_machine().and_then(|archive| archive.fetch(series, directory, &unpacked));
    if let Err(error) = fetched {
        if !unpacked.exists() {
            return Err(error);
        }
        step(&format!("{}: taking the one at hand: {error:#}", series.name()));
    }
    Kernel::find(&unpacked)
}

/// Where this machine's packages come from.
///
/// # Errors
///
/// apt has no source of Debian's.
pub(super) fn mirror() -> Result<String> {
    Ok(Archive::of_this_machine()?.main)
}

/// Debian's archive, as addresses.
#[derive(Debug)]
struct Archive {
    main: String,
    security: Option<String>,
}

impl Archive {
    /// The mirror that this machine's packages come from.
    fn of_this_machine() -> Result<Self> {
        let origins = origins()?;
        let labelled = |label: &str| {
            let origin = origins.iter().find(|origin| origin.label == label);
            origin.map(|origin| origin.address.clone())
        };
        let main =
            labelled("Debian").context("apt has no source of Debian's, or no lists of it")?;
        Ok(Self { main, security: labelled("Debian-Security") })
    }

    fn fetch(&self, series: Series, directory: &Path, unpacked: &Path) -> Result<()> {
        let apt = Apt::new(directory, &self.sources(series))?;
        run_apt(apt.command("apt-get").args(["update", "--quiet"]))?;
        let printed = run_apt(apt.command("apt-cache").args([
            "depends",
            "--recurse",
            "--important",
            KERNEL,
        ]))?;
        let packages: BTreeSet<&str> =
            printed.stdout.lines().filter(|name| is_part(name)).collect();
        if packages.is_empty() {
            bail!("no {KERNEL} in {}", series.suites().main);
        }
        let download = |apt: &Apt| {
            let mut download = apt.command("apt-get");
            download.args(["download", "--quiet"]).args(&packages);
            download
        };
        let files = files_of(&run_apt(download(&apt).arg("--print-uris"))?.stdout);
        let stamp = unpacked.join("packages");
        if fs::read_to_string(&stamp).is_ok_and(|before| before == files.join("\n")) {
            return Ok(());
        }
        step(&format!("fetching {}", files.join(" ")));
        let fresh = directory.join("unpacked.new");
        let fetched = tempfile::tempdir_in(directory)?;
        fs::remove_dir_all(&fresh).ok();
        run_apt(download(&apt).current_dir(fetched.path()))?;
        for file in &files {
            run(command("dpkg-deb").arg("--extract").arg(fetched.path().join(file)).arg(&fresh))?;
        }
        fs::write(fresh.join("packages"), files.join("\n"))?;
        fs::remove_dir_all(unpacked).ok();
        fs::rename(&fresh, unpacked).context("cannot keep the kernel")
    }

    fn sources(&self, series: Series) -> String {
        let suites = series.suites();
        let signed = if Path::new(KEYRING).exists() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let line = |address: &str, suite: &str| format!("deb {signed}{address} {suite} main\n");
        let security = self.security.as_deref().zip(suites.security);
        line(&self.main, suites.main)
            + &security.map_or_else(String::new, |(address, suite)| line(address, suite))
    }
}

impl Kernel {
    /// The kernel below `unpacked`, wherever its package has put it.
    fn find(unpacked: &Path) -> Result<Self> {
        let modules = ["lib/modules", "usr/lib/modules"]
            .iter()
            .find_map(|directory| only_entry(&unpacked.join(directory)))
            .with_context(|| format!("no modules below {}", unpacked.display()))?;
        let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let image = [unpacked.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")]
            .into_iter()
            .find(|image| image.exists())
            .with_context(|| format!("no vmlinuz below {}", unpacked.display()))?;
        Ok(Self { release, image, modules })
    }
}

/// apt with sources, lists and cache of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(directory: &Path, sources: &str) -> Result<Self> {
        let root = directory.join("apt");
        for needed in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(root.join(needed)).context("cannot create the cache of kernels")?;
        }
        fs::write(root.join("sources.list"), sources)?;
        // What is installed here does not matter there.
        fs::write(root.join("status"), "")?;
        let root = root.display();
        Ok(Self {
            options: vec![
                format!("Dir::Etc::sourcelist={root}/sources.list"),
                "Dir::Etc::sourceparts=/dev/null".to_owned(),
                "Dir::Etc::preferences=/dev/null".to_owned(),
                "Dir::Etc::preferencesparts=/dev/null".to_owned(),
                format!("Dir::State={root}"),
                format!("Dir::State::status={root}/status"),
                format!("Dir::Cache={root}"),
                "Acquire::Languages=none".to_owned(),
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
                // Old lists are not to pass for new ones.
                "APT::Update::Error-Mode=any".to_owned(),
                // The cache belongs to whoever runs this.
                "APT::Sandbox::User=root".to_owned(),
            ],
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(program);
        command.env("LC_ALL", "C").current_dir("/");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

/// Runs a command of apt's; a failure is the first thing that apt calls an error.
fn run_apt(command: &mut Command) -> Result<Printed> {
    run(command).map_err(|failed| {
        match failed.output.lines().find_map(|line| line.strip_prefix("E: ")) {
            Some(error) => anyhow!("apt: {error}"),
            None => failed.into(),
        }
    })
}

/// Whether a package holds a part of a kernel: those that only depend on the newest have no version
/// in their names.
fn is_part(package: &str) -> bool {
    let version = PARTS.iter().find_map(|part| package.strip_prefix(part));
    version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
}

/// The file names that `apt-get download --print-uris` says: `'ADDRESS' NAME SIZE DIGEST`.
fn files_of(printed: &str) -> Vec<String> {
    let lines = printed.lines().filter(|line| line.starts_with('\''));
    lines.filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
}

fn only_entry(directory: &Path) -> Option<PathBuf> {
    fs::read_dir(directory).ok()?.filter_map(Result::ok).map(|entry| entry.path()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_packages_are_read_from_what_apt_would_fetch() {
        let printed = "'http://mirror.example/pool/l/a_1%7ebpo_amd64.deb' a_1~bpo_amd64.deb 192 SHA256:0\n\
                       'http://mirror.example/pool/l/b_1_amd64.deb' b_1_amd64.deb 7 SHA256:1\n";
        assert_eq!(files_of(printed), ["a_1~bpo_amd64.deb", "b_1_amd64.deb"]);
        assert!(files_of("E: No packages found\n").is_empty());
    }

    #[test]
    fn packages_that_only_depend_on_a_kernel_are_not_fetched() {
        assert!(is_part("linux-image-5.10.0-46-cloud-amd64"));
        assert!(is_part("linux-modules-7.3.4+deb13-cloud-amd64"));
        assert!(!is_part(KERNEL));
        assert!(!is_part("linux-base-7.3.4+deb13-cloud-amd64"), "scripts");
    }

    #[test]
    fn a_series_is_looked_for_where_its_fixes_are() {
        let archive = Archive {
            main: "http://mirror.example/debian/".to_owned(),
            security: Some("http://mirror.example/security/".to_owned()),
        };
        let sources = archive.sources(Series::V6_1);
        assert!(sources.contains("http://mirror.example/debian/ bookworm main"), "{sources}");
        let security = "http://mirror.example/security/ bookworm-security main";
        assert!(sources.contains(security), "{sources}");
        assert_eq!(archive.sources(Series::Newest).lines().count(), 1);
    }

    #[test]
    fn a_kernel_is_found_in_both_places_that_packages_use() {
        for (modules, image) in [
            ("lib/modules/5.10.0-1-amd64", "boot/vmlinuz-5.10.0-1-amd64"),
            ("usr/lib/modules/7.3.4-amd64", "usr/lib/modules/7.3.4-amd64/vmlinuz"),
        ] {
            let unpacked = tempfile::tempdir().unwrap();
            fs::create_dir_all(unpacked.path().join(modules)).unwrap();
            fs::create_dir_all(unpacked.path().join("boot")).unwrap();
            assert!(Kernel::find(unpacked.path()).is_err(), "no image");
            fs::write(unpacked.path().join(image), "").unwrap();
            let kernel = Kernel::find(unpacked.path()).unwrap();
            assert_eq!(kernel.image, unpacked.path().join(image));
            assert_eq!(Some(kernel.release.as_str()), modules.rsplit('/').next());
        }
    }
}
