//! `top`: rates and state of the running daemon, as a terminal shows them.

mod frame;
mod screen;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::frame::Frame;
use super::output;
use crate::exit::{Exit, Failure};
use crate::observe::{self, Observation};

/// Between two observations.
const PERIOD: Duration = Duration::from_secs(1);
/// How soon the keyboard's thread notices that nobody listens.
const LISTEN: Duration = Duration::from_millis(200);

/// Show rates by set and reason, the uplink, the generation and the switches; q quits
///
/// Reads the daemon's state once a second, and nothing else. Where standard output is no terminal,
/// one frame is printed, as with --once.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print one frame, of one second, and end
    #[arg(long)]
    once: bool,
}

/// The daemon's state and when it was read.
type Seen = (Observation, Instant);

/// What a terminal has to be told.
enum News {
    Key(KeyEvent),
    Resized,
    Seen(Box<Result<Option<Observation>, Failure>>),
}

/// Runs the verb.
///
/// # Errors
///
/// With one frame to print, no daemon answers; with a terminal, it cannot be drawn on.
pub(super) fn run(args: &TopArgs, run_dir: &Path) -> Result<(), Failure> {
    if args.once || !io::stdout().is_terminal() {
        return once(run_dir);
    }
    let runtime = super::runtime()?;
    let failed = |error: io::Error| Failure::new(Exit::System, format!("terminal: {error}"));
    // From here on a panic gives the terminal back first.
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let outcome = runtime.block_on(show(&mut terminal, run_dir));
    ratatui::restore();
    outcome.map_err(failed)
}

fn once(run_dir: &Path) -> Result<(), Failure> {
    let read = || {
        let observation = observe::read(run_dir)?;
        let observation =
            observation.ok_or_else(|| Failure::new(Exit::Daemon, nobody_answers(run_dir)))?;
        Ok::<Seen, Failure>((observation, Instant::now()))
    };
    let (before, since) = read()?;
    thread::sleep(PERIOD);
    let (now, until) = read()?;
    output::text(&Frame::of(&before, &now, until.duration_since(since)).text())
}

fn nobody_answers(run_dir: &Path) -> String {
    format!("no daemon answers in {}: `systemctl status breakout365` says why", run_dir.display())
}

/// Until q, Ctrl-C or a signal. A daemon that goes is waited for.
async fn show(terminal: &mut DefaultTerminal, run_dir: &Path) -> io::Result<()> {
    let (mut terminate, mut hangup, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::interrupt())?,
    );
    let (tell, mut news) = mpsc::unbounded_channel();
    let (keys, looks, run) = (tell.clone(), tell, run_dir.to_owned());
    thread::spawn(move || listen(&keys));
    thread::spawn(move || look(&looks, &run));
    let mut last: Option<Seen> = None;
    let mut shown = Frame::without_daemon("asking the daemon");
    loop {
        terminal.draw(|canvas| screen::draw(canvas, &shown))?;
        let news = tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            news = news.recv() => news,
        };
        match news {
            // Both threads have ended: there is no terminal any more.
            None => return Ok(()),
            Some(News::Resized) => {}
            Some(News::Key(key)) => {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                if key.code == KeyCode::Char('q') || (control && key.code == KeyCode::Char('c')) {
                    return Ok(());
                }
            }
            Some(News::Seen(seen)) => match *seen {
                Ok(Some(now)) => {
                    let at = Instant::now();
                    shown = match &last {
                        Some((before, since)) => Frame::of(before, &now, at.duration_since(*since)),
                        None => Frame::of(&now, &now, Duration::ZERO),
                    };
                    last = Some((now, at));
                }
                Ok(None) => shown = Frame::without_daemon(&nobody_answers(run_dir)),
                Err(failure) => shown = Frame::without_daemon(&failure.to_string()),
            },
        }
    }
}

/// The keyboard's thread: nothing it waits on can be called off.
fn listen(tell: &mpsc::UnboundedSender<News>) {
    while !tell.is_closed() {
        let news = match event::poll(LISTEN) {
            Ok(true) => event::read(),
            Ok(false) => continue,
            Err(error) => Err(error),
        };
        let told = match news {
            Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => tell.send(News::Key(key)),
            Ok(_) => tell.send(News::Resized),
            Err(_) => return,
        };
        if told.is_err() {
            return;
        }
    }
}

/// The daemon's thread: while it publishes, it answers late.
fn look(tell: &mpsc::UnboundedSender<News>, run_dir: &Path) {
    while tell.send(News::Seen(Box::new(observe::read(run_dir)))).is_ok() {
        thread::sleep(PERIOD);
    }
}
