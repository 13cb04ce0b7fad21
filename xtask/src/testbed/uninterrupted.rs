//! Waiting on a socket that has a time limit.

use std::io::{ErrorKind, Result};

/// Does `wait` again as long as it is interrupted. With a time limit on the socket the kernel does not do
/// that by itself, whatever woke the thread (signal(7), "Interruption of system calls").
///
/// # Errors
///
/// Any other one of `wait`.
pub fn uninterrupted<T>(mut wait: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match wait() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_is_no_outcome_and_everything_else_is() {
        let mut outcomes =
            [Err(ErrorKind::Interrupted), Ok(7), Err(ErrorKind::WouldBlock)].into_iter();
        let mut wait = || outcomes.next().unwrap_or(Ok(0)).map_err(std::io::Error::from);
        assert_eq!(uninterrupted(&mut wait).ok(), Some(7));
        let late = uninterrupted(&mut wait).map_err(|error| error.kind());
        assert_eq!(late, Err(ErrorKind::WouldBlock));
    }
}
