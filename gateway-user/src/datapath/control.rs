//! The switches over all generations, as user space holds them: one small pinned map.
//!
//! Whoever may write the pin may switch, daemon or no daemon; [`gateway_common::control`] has the
//! layout and what it means.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use gateway_common::Reason;
use gateway_common::control::{
    COARSENESS, DEADLINE, NEVER, OFF, ON, REDIRECT_V4, REDIRECT_V6, SAMPLE, SAMPLE_UNTIL, SWITCH,
    UNDISPUTED_V4, UNDISPUTED_V6, WORDS, refusal,
};
use nix::time::{ClockId, clock_gettime};

use super::generation::chain;
use super::{DatapathError, Lock, Pins};

/// `BPF_MAP_TYPE_ARRAY`, kernel `include/uapi/linux/bpf.h`.
const ARRAY: u32 = 2;

/// The pinned control map.
pub struct Control {
    words: Array<MapData, u64>,
    path: PathBuf,
}

/// What the switches say at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether the operator lets anything go direct.
    pub on: bool,
    /// Seconds until direct egress ends by itself, rounded up; 0 where it has, `None` where it does
    /// not.
    pub deadline: Option<u64>,
    /// Why nothing goes direct, if so.
    pub refusal: Option<Reason>,
}

impl Control {
    /// The map that is pinned; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`DatapathError::NotControl`] where something else has its place.
    pub fn open(pins: &Pins) -> Result<Option<Self>, DatapathError> {
        let path = pins.control();
        match fs::symlink_metadata(&path) {
            Ok(_) => Self::at(path).map(Some),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(source) => Err(DatapathError::Pins { path, what: "cannot look at it", source }),
        }
    }

    /// The map that is pinned, or a new one, which may start off, and whether it is new. It is never
    /// replaced.
    pub(super) fn obtain(
        lock: &Lock,
        deadline: Option<Duration>,
        starts_off: bool,
    ) -> Result<(Self, bool), DatapathError> {
        if let Some(control) = Self::open(lock.pins())? {
            match control.word(SWITCH)? {
                ON | OFF => return Ok((control, false)),
                word => return Err(DatapathError::OddSwitch { path: control.path, word }),
            }
        }
        let fill = |why: String| DatapathError::Fill { map: "control", why };
        let words = Array::<MapData, u64>::create(WORDS, 0).map_err(|error| fill(chain(&error)))?;
        let path = lock.pins().control();
        let mut control = Self { words, path: path.clone() };
        // Both before it is pinned: a crash in between would leave a map that inspects everything.
        control.renew(deadline)?;
        control.switch(!starts_off)?;
        control.words.pin(&path).map_err(|error| fill(chain(&error)))?;
        Ok((Self::at(path)?, true))
    }

    fn at(path: PathBuf) -> Result<Self, DatapathError> {
        let not = |why: String| DatapathError::NotControl { path: path.clone(), why };
        let data = MapData::from_pin(&path)
            .map_err(|error| not(format!("not the control map: {}", chain(&error))))?;
        let info =
            data.info().map_err(|error| not(format!("not the control map: {}", chain(&error))))?;
        let kind = info.map_type().map_or(u32::MAX, |kind| kind as u32);
        let seen = (kind, info.key_size(), info.value_size(), info.max_entries());
        if seen != (ARRAY, 4, 8, WORDS) {
            let (kind, key, value, entries) = seen;
            return Err(not(format!(
                "not the control map of this breakout365 but map type {kind}, {entries} entries of \
                 {key} and {value} bytes; an array of {WORDS} entries of 4 and 8 bytes was expected"
            )));
        }
        let map = Map::from_map_data(data).map_err(|error| not(chain(&error)))?;
        let words = Array::try_from(map).map_err(|error| not(chain(&error)))?;
        Ok(Self { words, path })
    }

    /// Where it is pinned.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets direct egress happen, or stops it, from the next packet on.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn switch(&mut self, on: bool) -> Result<(), DatapathError> {
        self.set(SWITCH, if on { ON } else { OFF })
    }

    /// Moves the deadline to `deadline` from now, or a few milliseconds before; `None` is without end.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn renew(&mut self, deadline: Option<Duration>) -> Result<(), DatapathError> {
        let until = match deadline {
            None => NEVER,
            // Past by any clock, however late that is.
            Some(Duration::ZERO) => 0,
            Some(deadline) => self.after(deadline)?.saturating_sub(COARSENESS),
        };
        self.set_deadline(until)
    }

    /// The word of the deadline as it is.
    pub(super) fn deadline(&self) -> Result<u64, DatapathError> {
        self.word(DEADLINE)
    }

    /// Puts the word of the deadline back.
    pub(super) fn set_deadline(&mut self, word: u64) -> Result<(), DatapathError> {
        self.set(DEADLINE, word)
    }

    /// Lets what serves redirect packets of IPv4 and of IPv6 to the interfaces with these indexes; zero,
    /// they are marked from the next packet on.
    ///
    /// # Errors
    ///
    /// The map cannot be read or written.
    pub fn redirect_to(&mut self, uplinks: [u32; 2]) -> Result<(), DatapathError> {
        for (index, uplink) in [REDIRECT_V4, REDIRECT_V6].into_iter().zip(uplinks) {
            if self.word(index)? != u64::from(uplink) {
                self.set(index, u64::from(uplink))?;
            }
        }
        Ok(())
    }

    /// Ends redirecting of IPv4 and of IPv6 to any other interface than these, and begins none.
    ///
    /// # Errors
    ///
    /// The map cannot be read or written.
    pub fn redirect_no_further_than(&mut self, uplinks: [u32; 2]) -> Result<(), DatapathError> {
        for (index, uplink) in [REDIRECT_V4, REDIRECT_V6].into_iter().zip(uplinks) {
            if ![0, u64::from(uplink)].contains(&self.word(index)?) {
                self.set(index, 0)?;
            }
        }
        Ok(())
    }

    /// Ends redirecting of IPv4 and of IPv6, where so asked.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn end_redirecting(&mut self, families: [bool; 2]) -> Result<(), DatapathError> {
        for (index, ends) in [REDIRECT_V4, REDIRECT_V6].into_iter().zip(families) {
            if ends {
                self.set(index, 0)?;
            }
        }
        Ok(())
    }

    /// Has the ways of redirected packets looked up in the direct table alone, for this long from now, of
    /// IPv4 and of IPv6; else by all rules, from the next packet on.
    ///
    /// # Errors
    ///
    /// The map or the clock cannot be read, or the map not be written.
    pub fn undisputed(&mut self, leases: [Option<Duration>; 2]) -> Result<(), DatapathError> {
        // What is taken back of the one family does not wait for the other.
        let mut outcome = Ok(());
        for (index, lease) in [UNDISPUTED_V4, UNDISPUTED_V6].into_iter().zip(leases) {
            let until = lease.map_or(Ok(0), |lease| self.after(lease));
            outcome = outcome.and(self.set(index, *until.as_ref().unwrap_or(&0)));
            outcome = outcome.and(until.map(drop));
        }
        outcome
    }

    /// What the switches say now.
    ///
    /// # Errors
    ///
    /// The map or the clock cannot be read.
    pub fn standing(&self) -> Result<Standing, DatapathError> {
        let (switch, deadline, now) = (self.word(SWITCH)?, self.deadline()?, self.now()?);
        let left = deadline.saturating_sub(now).div_ceil(1_000_000_000);
        Ok(Standing {
            on: switch == ON,
            deadline: (deadline != NEVER).then_some(left),
            // Programs may go on as long by a clock that is late: they are not said to have ended before.
            refusal: refusal(switch, deadline, || now.saturating_sub(COARSENESS)),
        })
    }

    /// How many packets there are to one that is drawn for `trace`; 0, none is.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn sampling(&self) -> Result<u64, DatapathError> {
        self.word(SAMPLE)
    }

    /// Lets the programs draw one packet in `one_in` for `lease` from now; 0 ends it.
    pub(super) fn draw(&mut self, one_in: u32, lease: Duration) -> Result<(), DatapathError> {
        // In this order: a word without its lease would be put back to zero.
        self.set(SAMPLE_UNTIL, self.after(lease)?)?;
        self.set(SAMPLE, u64::from(one_in))
    }

    fn word(&self, index: u32) -> Result<u64, DatapathError> {
        self.words.get(&index, 0).map_err(|error| DatapathError::Unreadable {
            path: self.path.clone(),
            why: chain(&error),
        })
    }

    fn set(&mut self, index: u32, word: u64) -> Result<(), DatapathError> {
        self.words.set(index, word, 0).map_err(|error| DatapathError::Pins {
            path: self.path.clone(),
            what: "cannot be written",
            source: io::Error::other(chain(&error)),
        })
    }

    /// The word of a moment so long from now.
    fn after(&self, time: Duration) -> Result<u64, DatapathError> {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(NEVER);
        Ok(self.now()?.saturating_add(nanoseconds))
    }

    /// `bpf_ktime_get_ns`, as user space reads it.
    pub(super) fn now(&self) -> Result<u64, DatapathError> {
        let now =
            clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|error| DatapathError::Unreadable {
                path: self.path.clone(),
                why: format!("the clock: {error}"),
            })?;
        let now = Duration::from(now);
        Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }
}
