//! Who may ask, and over what: address, certificate, bearer token.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;

use super::Options;
use crate::exit::{Exit, Failure};

/// Shorter ones are guessed.
const SHORTEST_TOKEN: usize = 16;

/// Who may ask for what.
#[derive(Debug, Default)]
pub(super) struct Access {
    token: Option<PathBuf>,
}

/// Whether who asks may see the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may.
    Granted,
    /// It has not the token.
    Denied,
    /// Nobody has it: the file cannot be read, one line.
    Closed(String),
}

impl Access {
    /// What `options` allow.
    ///
    /// # Errors
    ///
    /// Anybody on a network could ask, or could listen to who does.
    pub(super) fn of(options: &Options) -> Result<Self, Failure> {
        let Options { listen, tls, token, .. } = options;
        let is_open = tls.is_none() || token.is_none();
        if is_open && !is_of_this_machine(*listen) {
            let problem = format!(
                "--listen {listen}: others than this machine could ask; give --tls-cert, --tls-key \
                 and --token-file, or listen on 127.0.0.1 or [::1]"
            );
            return Err(Failure::new(Exit::Usage, problem));
        }
        if let Some(path) = token {
            read_token(path).map_err(|problem| Failure::new(Exit::Usage, problem))?;
        }
        Ok(Self { token: token.clone() })
    }

    /// Whether who sends this `Authorization` header may see the metrics. The file is read each
    /// time, so that a new token needs no restart.
    pub(super) fn admits(&self, authorization: Option<&str>) -> Admission {
        let Some(path) = &self.token else { return Admission::Granted };
        let token = match read_token(path) {
            Ok(token) => token,
            Err(problem) => return Admission::Closed(problem),
        };
        let given = authorization.and_then(|header| {
            let (scheme, given) = header.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| given.trim())
        });
        // Digests, so that how long comparing takes says nothing about the token.
        if given.is_some_and(|given| Sha256::digest(given) == Sha256::digest(&token)) {
            Admission::Granted
        } else {
            Admission::Denied
        }
    }
}

impl Admission {
    /// Why nobody is admitted.
    pub(super) fn problem(&self) -> Option<&str> {
        match self {
            Self::Closed(problem) => Some(problem),
            Self::Granted | Self::Denied => None,
        }
    }
}

fn is_of_this_machine(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn read_token(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("--token-file {}: {error}", path.display()))?;
    let token = text.trim().to_owned();
    if token.len() < SHORTEST_TOKEN || token.contains(char::is_whitespace) {
        return Err(format!(
            "--token-file {}: one word of {SHORTEST_TOKEN} characters or more is expected; make one \
             with `openssl rand -hex 32`",
            path.display()
        ));
    }
    Ok(token)
}

/// TLS with this certificate chain and key, both PEM.
///
/// # Errors
///
/// They cannot be read, or do not belong together.
pub(super) fn tls(certificate: &Path, key: &Path) -> Result<TlsAcceptor, Failure> {
    let failed = |option: &str, path: &Path, why: &dyn std::fmt::Display| {
        Failure::new(Exit::Usage, format!("{option} {}: {why}", path.display()))
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| failed("--tls-cert", certificate, &error))?;
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|error| failed("--tls-key", key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(|error| failed("--tls-cert", certificate, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(listen: &str) -> Options {
        let listen = listen.parse().unwrap();
        Options { listen, tls: None, token: None, run_dir: PathBuf::new() }
    }

    #[test]
    fn only_this_machine_may_ask_without_certificate_and_token() {
        for own in ["127.0.0.1:9365", "127.9.9.9:1", "[::1]:9365", "[::ffff:127.0.0.1]:80"] {
            assert!(Access::of(&options(own)).is_ok(), "{own}");
        }
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        fs::write(&token, "0123456789abcdef\n").unwrap();
        for open in ["0.0.0.0:9365", "192.0.2.1:9365", "[::]:9365", "[2001:db8::1]:9365"] {
            assert!(Access::of(&options(open)).is_err(), "{open}");
            let only_token = Options { token: Some(token.clone()), ..options(open) };
            assert!(Access::of(&only_token).is_err(), "{open}");
            let only_tls = Options { tls: Some((token.clone(), token.clone())), ..options(open) };
            assert!(Access::of(&only_tls).is_err(), "{open}");
            let both = Options { token: Some(token.clone()), ..only_tls };
            assert!(Access::of(&both).is_ok(), "{open}");
        }
    }

    #[test]
    fn a_token_is_the_whole_token_and_can_be_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        let with_token = Options { token: Some(path.clone()), ..options("127.0.0.1:1") };
        let access = Access::of(&with_token).unwrap();
        for good in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef "] {
            assert_eq!(access.admits(Some(good)), Admission::Granted, "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789ABCDEF",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert_eq!(access.admits(Some(bad)), Admission::Denied, "{bad}");
        }
        assert_eq!(access.admits(None), Admission::Denied);
        fs::write(&path, "fedcba9876543210").unwrap();
        assert_eq!(access.admits(Some("Bearer fedcba9876543210")), Admission::Granted);
        assert_eq!(access.admits(Some("Bearer 0123456789abcdef")), Admission::Denied);
        fs::remove_file(&path).unwrap();
        let closed = access.admits(Some("Bearer fedcba9876543210"));
        let problem = closed.problem().expect("no file admits nobody");
        assert!(problem.contains(&path.display().to_string()), "{problem}");
        for bad in ["", "short", "0123456789 abcdef"] {
            fs::write(&path, bad).unwrap();
            assert!(Access::of(&with_token).is_err(), "{bad}");
        }
    }
}
