//! Other programs, such as `nft`: run to their end, within a time.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// A ruleset of ten thousands of lines is listed within a second or two; what takes longer than this
/// waits for something, and signs of life wait for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a program gave nothing.
#[derive(Debug, Error)]
pub(crate) enum NoOutput {
    /// It cannot be started; most often, it is not installed.
    #[error("{0}")]
    Start(#[source] io::Error),
    /// It failed, or did not end in time and was killed: in its words or ours.
    #[error("{0}")]
    Failed(String),
}

/// What a program prints, in no locale, with `input` as its standard input.
///
/// # Errors
///
/// See [`NoOutput`].
pub(crate) async fn run(
    name: &str,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<String, NoOutput> {
    run_within(PATIENCE, name, arguments, input).await
}

async fn run_within(
    patience: Duration,
    name: &str,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<String, NoOutput> {
    let mut child = Command::new(name)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NoOutput::Start)?;
    let stdin = child.stdin.take();
    let feed = async {
        if let (Some(input), Some(mut stdin)) = (input, stdin) {
            // One that does not read says why in its status.
            stdin.write_all(input.as_bytes()).await.ok();
        }
    };
    let ended = timeout(patience, async { tokio::join!(feed, child.wait_with_output()).1 }).await;
    let Ok(ended) = ended else {
        let seconds = patience.as_secs();
        let said = format!("it had not ended after {seconds} s and was killed; try it by hand");
        return Err(NoOutput::Failed(said));
    };
    let Output { status, stdout, stderr } = ended.map_err(NoOutput::Start)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&stderr);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(NoOutput::Failed(if said.is_empty() { status.to_string() } else { said }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn what_it_prints_or_why_it_fails_is_given() {
        let long = "x".repeat(1 << 20);
        assert_eq!(block_on(run("cat", &[], Some(&long))).unwrap(), long, "more than a pipe holds");
        let failed = block_on(run("sh", &["-c", "echo no  good >&2; exit 3"], None)).unwrap_err();
        assert_eq!(failed.to_string(), "no good");
        let silent = block_on(run("false", &[], Some(&long))).unwrap_err();
        assert_eq!(silent.to_string(), "exit status: 1");
        let absent = block_on(run("b365-absent", &[], None)).unwrap_err();
        assert!(
            matches!(&absent, NoOutput::Start(error) if error.kind() == io::ErrorKind::NotFound)
        );
    }

    #[test]
    fn one_that_does_not_end_is_killed_and_others_go_on_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 600", pid.display());
        let begin = Instant::now();
        let (failed, ticks) = block_on(async {
            let arguments = ["-c", &script];
            let hangs = run_within(Duration::from_secs(1), "sh", &arguments, None);
            let mut ticks = 0;
            tokio::pin!(hangs);
            loop {
                tokio::select! {
                    failed = &mut hangs => break (failed.unwrap_err(), ticks),
                    () = tokio::time::sleep(Duration::from_millis(50)) => ticks += 1,
                }
            }
        });
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        assert!(failed.to_string().starts_with("it had not ended after 1 s"), "{failed}");
        assert!(ticks > 1, "{ticks}");
        let process = format!("/proc/{}/stat", fs::read_to_string(pid).unwrap().trim());
        let is_over = || fs::read_to_string(&process).map_or(true, |stat| stat.contains(") Z "));
        while !is_over() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{process} goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
