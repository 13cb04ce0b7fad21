//! `dlp`: Squid has every request looked at by c-icap, which blocks uploads with a marker.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::chain::ChainFormat;
use super::network::Rest;
use super::program::{Program, directory};
use super::site::{Family, OTHER, OUTLOOK, SHAREPOINT, SIGN_IN};
use super::squid::{Squid, TPROXY_PORT};
use super::visit::Visit;
use super::{Script, Stage, text};

pub(super) const SCRIPT: Script = Script {
    needs: &[
        ("squid", "squid"),
        ("c-icap", "c-icap"),
        (CONTENT_FILTER, "libc-icap-mod-contentfiltering"),
        ("iptables-restore", "iptables"),
    ],
    rest: Rest::Uplink,
    categories: &["Optimize"],
    run,
};

/// What the rule looks for.
const MARKER: &str = "breakout365-confidential";
const HARMLESS: &str = "nothing to hide";
/// Not a command, but the page that the module blocks with.
const CONTENT_FILTER: &str = "/usr/share/c_icap/templates/srv_content_filtering/en/BLOCK";
const ICAP_PORT: u16 = 1344;
const PASSED: &str = "inspected, through squid";
const BLOCKED: &str = "answered on the way, 403 Forbidden";

fn run(stage: &mut Stage) -> Result<()> {
    let files = directory(&stage.files(), "c-icap")?;
    let config = files.join("c-icap.conf");
    fs::write(&config, configuration(&files)?)?;
    let gateway = &stage.network.gateway;
    let mut icap = Program::start(gateway, "c-icap", &files, &["-N", "-D", "-f", text(&config)?])?;
    icap.wait_for_port(gateway, ICAP_PORT)?;
    stage.keep_running(icap)?;
    let squid = Squid::start(
        stage,
        &format!(
            "icap_enable on\n\
             icap_service dlp reqmod_precache icap://127.0.0.1:{ICAP_PORT}/srv_content_filtering bypass=off\n\
             adaptation_access dlp allow all\n"
        ),
    )?;
    stage.load_chains(ChainFormat::Iptables, &[&format!("tproxy:{TPROXY_PORT}/80"), "drop"])?;

    let before = "selected, before the daemon runs";
    let upload = Visit::http(OUTLOOK, Family::V4).uploading(MARKER);
    stage.visit_that_shows(&upload, before, BLOCKED)?;
    stage.start_daemon()?;
    let confidential = |site: super::site::Site| format!("{}, with the marker", site.shows);
    for family in Family::ALL {
        for site in [OUTLOOK, SHAREPOINT] {
            let upload = Visit::http(site, family).uploading(MARKER);
            stage.visit_that_shows(&upload, &confidential(site), "direct")?;
        }
        for site in [SIGN_IN, OTHER] {
            let upload = Visit::http(site, family).uploading(MARKER);
            stage.visit_that_shows(&upload, &confidential(site), BLOCKED)?;
            stage.visit(&Visit::http(site, family).uploading(HARMLESS), PASSED)?;
        }
    }
    stage.check_direct_uplink(4)?;
    stage.check_inspected_way(0, "the one before the daemon ran was blocked")?;
    squid.check_log(stage, OTHER, OTHER.shows, 4)?;
    squid.check_log(stage, SIGN_IN, SIGN_IN.shows, 4)?;
    squid.check_log(stage, OUTLOOK, "the one before the daemon ran", 1)?;
    squid.check_log(stage, SHAREPOINT, SHAREPOINT.shows, 0)
}

/// Debian's, with other places and the rule.
fn configuration(files: &Path) -> Result<String> {
    let files = text(files)?;
    Ok(format!(
        "Include /etc/c-icap/c-icap.conf\n\
         PidFile {files}/c-icap.pid\n\
         CommandsSocket {files}/c-icap.ctl\n\
         TmpDir {files}\n\
         ServerLog {files}/server.log\n\
         AccessLog {files}/access.log\n\
         StartServers 1\n\
         Service srv_cfg_filter srv_content_filtering.so\n\
         srv_content_filtering.MaxBodyData 2M\n\
         srv_content_filtering.Match Confidential body /{MARKER}/ score=10\n\
         srv_content_filtering.Action block score{{Confidential>5}}\n"
    ))
}
