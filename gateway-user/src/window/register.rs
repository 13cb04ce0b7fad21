//! Which windows there are: what may be opened, what is over, and what outlives the daemon.

use std::path::PathBuf;
use std::time::Duration;

use gateway_common::abi::MAX_WINDOWS;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::clock::nanoseconds;
use super::{Ending, MAX_KEPT, Moment, Tally, Window, Wish};
use crate::feed::{Store, StoreError};
use crate::policy::OpenWindow;

/// Its file in the state directory.
pub(crate) const FILE: &str = "windows.json";
/// An id above this one is damage.
const PLAUSIBLE: u32 = 1_000_000;

/// Every window that is open, and the last ones that are over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Register {
    /// The id that was given last.
    last_id: u32,
    /// The generation that [`Window::serving`] is of, with when it was loaded: numbers begin anew
    /// when the pins are lost.
    read_from: Option<(u64, u64)>,
    /// When it was written: a wall clock that is before that is wrong.
    written: Option<Timestamp>,
    /// By id.
    windows: Vec<Window>,
}

/// Why a window is not opened or not ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// What was asked for is nothing that may be opened.
    #[error("{0}")]
    Wish(String),
    /// As many are open as may be.
    #[error("{MAX_WINDOWS} support windows are open, which is all there can be: stop one of them")]
    Full,
    /// No such window.
    #[error("there is no support window {0}; `breakout365 support list` shows them")]
    Unknown(u32),
    /// It is over.
    #[error("support window {0} is over already; `breakout365 support report {0}` has it")]
    IsOver(u32),
}

impl Register {
    /// What `store` has; a file that is missing is an empty register.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is damaged.
    pub fn read(store: &Store) -> Result<Self, StoreError> {
        Ok(store.read_json(FILE)?.unwrap_or_default())
    }

    /// After a register that cannot be read: an empty one, with no id that the journal or the damaged
    /// file has. The file is set aside, and gives where; else it would be written over.
    ///
    /// # Errors
    ///
    /// It cannot be set aside.
    pub fn begin_anew(
        store: &Store,
        in_journal: Option<u32>,
    ) -> (Self, Result<PathBuf, StoreError>) {
        let aside = store.set_aside(FILE);
        let text =
            aside.as_ref().ok().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        let in_file = ids_in(&String::from_utf8_lossy(&text)).max();
        let last_id = in_journal.max(in_file).unwrap_or(0);
        (Self { last_id, ..Self::default() }, aside)
    }

    /// Keeps it in `store`.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&mut self, store: &Store, now: &Moment) -> Result<(), StoreError> {
        self.written = Some(now.wall);
        store.write_json(FILE, self)
    }

    /// When it was written down.
    #[must_use]
    pub fn written(&self) -> Option<Timestamp> {
        self.written
    }

    /// Every window, the oldest first.
    #[must_use]
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// The window with this id.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Unknown`].
    pub fn window(&self, id: u32) -> Result<&Window, RegisterError> {
        self.windows.iter().find(|window| window.id == id).ok_or(RegisterError::Unknown(id))
    }

    fn window_mut(&mut self, id: u32) -> Option<&mut Window> {
        self.windows.iter_mut().find(|window| window.id == id)
    }

    /// Those that are open, as the tables take them.
    #[must_use]
    pub fn open(&self) -> Vec<OpenWindow> {
        let open = self.windows.iter().filter(|window| window.is_open());
        open.map(|window| OpenWindow {
            id: window.id,
            clients: window.clients.clone(),
            sets: window.sets.clone(),
            end: window.end,
        })
        .collect()
    }

    /// Opens a window; gives its id.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Wish`] or [`RegisterError::Full`].
    pub fn start(&mut self, wish: Wish, now: &Moment) -> Result<u32, RegisterError> {
        if let Some(refusal) = wish.refusal() {
            return Err(RegisterError::Wish(refusal));
        }
        if self.windows.iter().filter(|window| window.is_open()).count() >= MAX_WINDOWS {
            return Err(RegisterError::Full);
        }
        let until = SignedDuration::try_from(wish.length)
            .ok()
            .and_then(|length| now.wall.checked_add(length).ok());
        let id = self.last_id.checked_add(1);
        let (Some(until), Some(id)) = (until, id) else {
            return Err(RegisterError::Wish("there is no such time".to_owned()));
        };
        self.last_id = id;
        self.windows.push(Window {
            id,
            clients: wish.clients,
            sets: wish.sets,
            note: wish.note,
            started: now.wall,
            until,
            end: now.kernel.saturating_add(nanoseconds(wish.length)),
            boot: now.boot.clone(),
            ended: None,
            owes: false,
            before: Tally::default(),
            serving: Tally::default(),
        });
        self.forget();
        Ok(id)
    }

    /// Ends a window before its time.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Unknown`] or [`RegisterError::IsOver`].
    pub fn stop(&mut self, id: u32, now: &Moment) -> Result<(), RegisterError> {
        let window = self.window_mut(id).ok_or(RegisterError::Unknown(id))?;
        if !window.is_open() {
            return Err(RegisterError::IsOver(id));
        }
        window.close(now.wall, Ending::Stopped);
        Ok(())
    }

    /// Those that are over, and whose flows have not been ended yet.
    pub fn owing(&self) -> impl Iterator<Item = &Window> {
        self.windows.iter().filter(|window| window.owes)
    }

    /// The flows of a window are ended.
    pub fn settle(&mut self, id: u32) {
        if let Some(window) = self.window_mut(id) {
            window.owes = false;
        }
    }

    /// Takes back a window that could not be opened: it was never there.
    pub fn withdraw(&mut self, id: u32) {
        self.windows.retain(|window| window.id != id);
    }

    /// Ends what is over by either clock; gives their ids.
    pub fn end_what_is_over(&mut self, now: &Moment) -> Vec<u32> {
        let over = self.windows.iter_mut().filter(|window| {
            window.is_open() && (now.kernel >= window.end || now.wall >= window.until)
        });
        over.map(|window| {
            // Nobody may have looked for a while.
            window.close(now.wall.min(window.until), Ending::Over);
            window.id
        })
        .collect()
    }

    /// Ends all that are open: nobody knows the time. Gives their ids.
    pub fn end_in_doubt(&mut self, wall: Timestamp) -> Vec<u32> {
        self.end(wall, Ending::Doubt, |_| true)
    }

    /// Ends those that are open and not among the `loaded`. Gives their ids.
    pub fn end_unloadable(&mut self, loaded: &[OpenWindow], wall: Timestamp) -> Vec<u32> {
        let is_loaded = |id: u32| loaded.iter().any(|window| window.id == id);
        self.end(wall, Ending::Unloadable, |window| !is_loaded(window.id))
    }

    fn end(&mut self, wall: Timestamp, how: Ending, picked: impl Fn(&Window) -> bool) -> Vec<u32> {
        let open = self.windows.iter_mut().filter(|window| window.is_open() && picked(window));
        open.map(|window| {
            window.close(wall, how);
            window.id
        })
        .collect()
    }

    /// After a restart: what began in an earlier boot of the machine has as long left as the wall clock
    /// says, and where that clock is in doubt, nothing. Gives the ids of those that end by that.
    pub fn come_back(&mut self, now: &Moment) -> Vec<u32> {
        let written = self.written;
        let mut ended = Vec::new();
        let open = self.windows.iter_mut().filter(|window| window.is_open());
        for window in open.filter(|window| window.boot != now.boot) {
            let is_doubtful = written.is_none_or(|written| now.wall < written);
            match Duration::try_from(window.until.duration_since(now.wall)) {
                Ok(left) if !is_doubtful => {
                    window.end = now.kernel.saturating_add(nanoseconds(left));
                    window.boot.clone_from(&now.boot);
                }
                Ok(_) => {
                    window.close(now.wall, Ending::Doubt);
                    ended.push(window.id);
                }
                Err(_) => {
                    window.close(window.until, Ending::Over);
                    ended.push(window.id);
                }
            }
        }
        ended.extend(self.end_what_is_over(now));
        ended
    }

    /// When the next one is over, nanoseconds of `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn next_end(&self) -> Option<u64> {
        self.windows.iter().filter(|window| window.is_open()).map(|window| window.end).min()
    }

    /// Takes down what windows let go direct in `generation`, a number with when it was loaded. What
    /// was read from another one is final.
    pub fn note(&mut self, generation: (u64, u64), tallies: &[(u32, Tally)]) {
        if self.read_from != Some(generation) {
            for window in &mut self.windows {
                let final_tally = std::mem::take(&mut window.serving);
                window.before.merge(&final_tally);
            }
            self.read_from = Some(generation);
        }
        for (id, tally) in tallies {
            if let Some(window) = self.window_mut(*id) {
                window.serving.clone_from(tally);
            }
        }
    }

    /// Drops the oldest of those that are over.
    fn forget(&mut self) {
        while self.windows.len() > MAX_KEPT {
            let is_done = |window: &Window| !window.is_open() && !window.owes;
            let Some(oldest) = self.windows.iter().position(is_done) else { return };
            self.windows.remove(oldest);
        }
    }
}

/// The ids in a register, as far as it is text: its own last one, and those of windows.
fn ids_in(text: &str) -> impl Iterator<Item = u32> {
    let after = text.split("id\":").skip(1);
    let number =
        |rest: &str| rest.trim_start().split(|it: char| !it.is_ascii_digit()).next()?.parse().ok();
    after.filter_map(number).filter(|id| *id <= PLAUSIBLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::WindowSets;

    const HOUR: u64 = 3_600_000_000_000;

    fn moment(seconds: i64, kernel: u64, boot: &str) -> Moment {
        let wall = Timestamp::from_second(1_000_000 + seconds).unwrap();
        Moment { wall, kernel, boot: boot.to_owned() }
    }

    fn wish() -> Wish {
        Wish {
            clients: ["10.0.0.0/8".parse().unwrap()].into(),
            sets: WindowSets::all(),
            length: Duration::from_hours(2),
            note: "case 123".to_owned(),
        }
    }

    /// Written at the wall clock's 1,800 s of the first boot.
    fn written() -> Register {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut register = Register::default();
        register.start(wish(), &moment(0, HOUR, "one")).unwrap();
        register.write(&store, &moment(1_800, HOUR + HOUR / 2, "one")).unwrap();
        Register::read(&store).unwrap()
    }

    #[test]
    fn a_restart_and_a_reboot_make_no_window_longer() {
        // The same boot: the kernel's clock is what it was.
        let mut register = written();
        assert_eq!(register.come_back(&moment(1_801, 2 * HOUR, "one")), Vec::<u32>::new());
        assert_eq!(register.next_end(), Some(3 * HOUR));
        // Another one: as long as the wall clock has left.
        assert_eq!(register.come_back(&moment(3_600, 5, "two")), Vec::<u32>::new());
        assert_eq!(register.next_end(), Some(5 + HOUR));
        for (what, now, ending) in [
            ("too late", moment(7_200, 5, "two"), Ending::Over),
            ("long after", moment(100_000, 5, "two"), Ending::Over),
            ("a clock that was set back", moment(1_799, 5, "two"), Ending::Doubt),
            ("no clock at all", moment(-900_000, 5, "two"), Ending::Doubt),
            ("late by the kernel's clock", moment(1_900, 3 * HOUR, "one"), Ending::Over),
            ("late by the wall clock", moment(7_200, 2 * HOUR, "one"), Ending::Over),
        ] {
            let mut register = written();
            assert_eq!(register.come_back(&now), [1], "{what}");
            assert_eq!(
                register.window(1).unwrap().ended.map(|(_, how)| how),
                Some(ending),
                "{what}"
            );
            assert_eq!(register.open(), [], "{what}");
        }
    }

    #[test]
    fn a_clock_that_says_nothing_ends_what_is_open_and_no_more() {
        let mut register = written();
        let now = moment(1_900, 2 * HOUR, "one");
        register.start(wish(), &now).unwrap();
        register.stop(1, &now).unwrap();
        assert_eq!(register.end_in_doubt(now.wall), [2]);
        let how = |id| register.window(id).unwrap().ended.map(|(_, how)| how);
        assert_eq!((how(1), how(2)), (Some(Ending::Stopped), Some(Ending::Doubt)));
    }

    #[test]
    fn a_window_that_nobody_saw_end_was_over_when_its_time_was() {
        let mut register = written();
        register.come_back(&moment(90_000, 30 * HOUR, "one"));
        let window = register.window(1).unwrap();
        assert_eq!(window.ended, Some((window.until, Ending::Over)));
    }

    #[test]
    fn after_a_damaged_register_no_id_is_given_again_and_the_file_is_kept() {
        let whole = {
            let mut register = Register::default();
            for _ in 0..3 {
                register.start(wish(), &moment(0, 0, "one")).unwrap();
            }
            serde_json::to_string_pretty(&register).unwrap()
        };
        let (half, _) = whole.split_at(whole.len() / 2);
        for (what, damaged, in_journal, next) in [
            ("cut short", half, None, 4),
            ("the journal knows more", half, Some(7), 8),
            ("nothing of it is left", "", Some(2), 3),
            ("an id that is no id", "{\"last_id\": 4294967295", None, 1),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(directory.path()).unwrap();
            std::fs::write(directory.path().join(FILE), damaged).unwrap();
            assert!(Register::read(&store).is_err(), "{what}");
            let (mut register, aside) = Register::begin_anew(&store, in_journal);
            assert_eq!(register.windows(), [], "{what}");
            assert_eq!(register.start(wish(), &moment(0, 0, "one")), Ok(next), "{what}");
            assert_eq!(std::fs::read_to_string(aside.unwrap()).unwrap(), damaged, "{what}");
            assert_eq!(Register::read(&store).unwrap(), Register::default(), "{what}");
        }
    }

    #[test]
    fn ids_are_given_once_and_slots_run_out() {
        let mut register = Register::default();
        let now = moment(0, 0, "one");
        for id in 1..=8 {
            assert_eq!(register.start(wish(), &now), Ok(id));
        }
        assert_eq!(register.start(wish(), &now), Err(RegisterError::Full));
        register.stop(3, &now).unwrap();
        assert_eq!(register.stop(3, &now), Err(RegisterError::IsOver(3)));
        assert_eq!(register.start(wish(), &now), Ok(9));
        register.withdraw(9);
        assert_eq!(register.start(wish(), &now), Ok(10));
        assert_eq!(register.window(9), Err(RegisterError::Unknown(9)));
    }

    #[test]
    fn what_was_read_from_a_generation_is_added_once() {
        let mut register = Register::default();
        let id = register.start(wish(), &moment(0, 0, "one")).unwrap();
        let tally = |packets| {
            let mut tally = Tally::default();
            let amount = super::super::Amount { packets, bytes: packets * 60, flows: 1 };
            tally.add(&[1].into(), amount);
            [(id, tally)]
        };
        for (generation, packets, sum) in
            [((1, 7), 5, 5), ((1, 7), 9, 9), ((2, 7), 1, 10), ((2, 7), 4, 13), ((1, 8), 2, 15)]
        {
            register.note(generation, &tally(packets));
            assert_eq!(register.window(id).unwrap().tally().total().packets, sum);
        }
    }
}
