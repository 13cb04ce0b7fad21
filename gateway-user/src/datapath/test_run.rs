//! `BPF_PROG_TEST_RUN`: one program on one packet, no interface involved.
//!
//! aya has no binding for this command, so this module makes the system call itself; it is the
//! only `unsafe` of user space (docs/adr/0002-test-run-system-call.md).
#![allow(unsafe_code, reason = "the bpf(2) system call has no safe binding for BPF_PROG_TEST_RUN")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use aya::util::KernelVersion;
use gateway_common::Verdict;
use gateway_common::abi::Metadata;
use nix::libc;

/// `BPF_PROG_TEST_RUN` of `enum bpf_cmd`, kernel `include/uapi/linux/bpf.h`.
const BPF_PROG_TEST_RUN: libc::c_long = 10;
/// Offset of `mark` in `struct __sk_buff`.
const SKB_MARK: usize = 8;
/// Room for `struct __sk_buff`; the kernel writes as much as it has.
const SKB_CONTEXT: usize = 256;
/// Size of `struct xdp_md`.
const XDP_CONTEXT: usize = 24;
/// `include/uapi/linux/bpf.h`.
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
/// Packets per round of the kernel's own receive loop, as a driver would poll.
const LIVE_BATCH: u32 = 64;
/// Length of both MAC addresses of an Ethernet header, and where the sender's is.
const MACS: usize = 12;
const SENDER: usize = 6;
/// The action of XDP programs that let a packet go on (`enum xdp_action`).
const XDP_PASS: u32 = 2;
/// The action of XDP programs that send a packet elsewhere.
const XDP_REDIRECT: u32 = 4;
/// The action of tc programs that leave a packet to the next one (`TC_ACT_UNSPEC`, -1).
const TC_ACT_UNSPEC: u32 = u32::MAX;

/// The `test` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct TestAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

/// How often to run the program.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Runs, at least 1.
    pub repeat: u32,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { repeat: 1 }
    }
}

/// What a program did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its return value.
    pub action: u32,
    /// What it proposed (XDP) or marked (tc); Inspect for XDP where [`hides_metadata`].
    pub verdict: Verdict,
    /// Whether it let the packet go on unchanged, as every program of ours must.
    pub passed: bool,
    /// The MAC address that it was sent elsewhere with, as it should be one hop later.
    pub forwarded: Option<[u8; 6]>,
    /// Mean time of one run, in whole nanoseconds as the kernel gives it.
    pub mean: Duration,
}

/// The mark a tc run starts from and the bits that mean Direct.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Mark of the packet before the program.
    pub before: u32,
    /// Mark of a Direct packet after it.
    pub direct: u32,
}

/// Whether this kernel keeps to itself what an XDP program proposed in a test run: before 5.15
/// (commit 47316f4a3053) the packet comes back without its metadata.
#[must_use]
pub fn hides_metadata() -> bool {
    KernelVersion::current().is_ok_and(|kernel| kernel < KernelVersion::new(5, 15, 0))
}

/// Runs an XDP program on `frame`.
///
/// # Errors
///
/// What the system call said: `EINVAL` for frames below 14 bytes, `EPERM` without `CAP_BPF`.
pub fn run_xdp(program: BorrowedFd<'_>, frame: &[u8], options: RunOptions) -> io::Result<Outcome> {
    let room = frame.len().saturating_add(256);
    let mut data_out = vec![0; room];
    let mut attr = TestAttr { repeat: options.repeat, ..TestAttr::default() };
    run(program, frame, &mut data_out, None, &mut attr)?;
    let written = usize::try_from(attr.data_size_out).unwrap_or(usize::MAX).min(room);
    let front = written.saturating_sub(frame.len());
    let metadata = data_out.get(..front).unwrap_or_default();
    let verdict = if metadata.first_chunk::<8>() == Some(&proposal_bytes()) {
        Verdict::Direct
    } else {
        Verdict::Inspect
    };
    let after = data_out.get(front..written).unwrap_or_default();
    let is_forwarded = attr.retval == XDP_REDIRECT && is_one_hop_later(frame, after);
    let sender = after.get(SENDER..).and_then(|from| from.first_chunk()).copied();
    let forwarded = sender.filter(|_| is_forwarded);
    let outcome = outcome(&attr, verdict, after == frame && attr.retval == XDP_PASS);
    Ok(Outcome { forwarded, ..outcome })
}

/// Runs a tc program on `frame`.
///
/// # Errors
///
/// What the system call said: `EINVAL` for frames below 14 bytes, `EPERM` without `CAP_BPF`.
pub fn run_tc(
    program: BorrowedFd<'_>,
    frame: &[u8],
    mark: Mark,
    options: RunOptions,
) -> io::Result<Outcome> {
    let mut context = [0; SKB_CONTEXT];
    context[SKB_MARK..SKB_MARK + 4].copy_from_slice(&mark.before.to_ne_bytes());
    let mut data_out = vec![0; frame.len()];
    let mut attr = TestAttr {
        repeat: options.repeat,
        ctx_size_out: length_of(&context)?,
        ..TestAttr::default()
    };
    run(program, frame, &mut data_out, Some(&mut context), &mut attr)?;
    let mut after = [0; 4];
    after.copy_from_slice(&context[SKB_MARK..SKB_MARK + 4]);
    let after = u32::from_ne_bytes(after);
    let (verdict, expected) = if after == mark.direct {
        (Verdict::Direct, mark.direct)
    } else {
        (Verdict::Inspect, mark.before)
    };
    let passed = attr.retval == TC_ACT_UNSPEC && data_out == frame && after == expected;
    Ok(outcome(&attr, verdict, passed))
}

/// Sends `repeat` copies of `frame` through an XDP program as if interface `ifindex` had received
/// them (`BPF_F_TEST_XDP_LIVE_FRAMES`, kernel 5.18, commit b530e9e1063e): those that pass go up
/// that interface's stack, metadata included.
///
/// # Errors
///
/// What the system call said: `ENOTSUPP`/`EINVAL` on older kernels, `ENODEV` for an unknown
/// interface.
pub fn run_live(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
    repeat: u32,
) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(|_| invalid())?;
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let mut context = [0; XDP_CONTEXT];
    context[4..8].copy_from_slice(&length.to_ne_bytes());
    context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
    let mut attr = TestAttr {
        repeat,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: LIVE_BATCH,
        ..TestAttr::default()
    };
    run(program, frame, &mut [], Some(&mut context), &mut attr)?;
    Ok(())
}

fn outcome(attr: &TestAttr, verdict: Verdict, passed: bool) -> Outcome {
    Outcome {
        action: attr.retval,
        verdict,
        passed,
        forwarded: None,
        mean: Duration::from_nanos(u64::from(attr.duration)),
    }
}

/// Whether `after` is `before` with other MAC addresses, one hop less to live and a checksum that is
/// right (RFC 1812, sections 5.3.1 and 5.2.2; RFC 8200, section 3).
fn is_one_hop_later(before: &[u8], after: &[u8]) -> bool {
    let (Some((_, before)), Some((_, after))) =
        (before.split_first_chunk::<MACS>(), after.split_first_chunk::<MACS>())
    else {
        return false;
    };
    let Some((ethertype, header)) = after.split_first_chunk::<2>() else { return false };
    let mut expected = before.to_vec();
    let (lifetime, checksum) = match ethertype {
        [0x08, 0x00] => (8, Some(10)),
        [0x86, 0xdd] => (7, None),
        _ => return false,
    };
    let Some(hops) = expected.get_mut(2 + lifetime) else { return false };
    let Some(less) = hops.checked_sub(1) else { return false };
    *hops = less;
    if let Some(checksum) = checksum {
        let at = 2 + checksum..4 + checksum;
        let (Some(to), Some(from)) = (expected.get_mut(at.clone()), after.get(at)) else {
            return false;
        };
        to.copy_from_slice(from);
        let words = header.get(..20).unwrap_or_default().as_chunks::<2>().0.iter();
        let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
        if (sum & 0xffff) + (sum >> 16) != 0xffff {
            return false;
        }
    }
    expected == after
}

fn proposal_bytes() -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&Metadata::MAGIC.to_ne_bytes());
    bytes[4..].copy_from_slice(&Metadata::DIRECT.to_ne_bytes());
    bytes
}

/// Makes the system call. `attr` comes with what only the caller knows: repeat, flags, and whether
/// it wants the context back (`ctx_size_out`).
fn run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    data_out: &mut [u8],
    context: Option<&mut [u8]>,
    attr: &mut TestAttr,
) -> io::Result<()> {
    attr.prog_fd = u32::try_from(program.as_raw_fd()).map_err(|_| invalid())?;
    attr.data_size_in = length_of(frame)?;
    attr.data_in = frame.as_ptr().expose_provenance() as u64;
    if !data_out.is_empty() {
        attr.data_size_out = length_of(data_out)?;
        attr.data_out = data_out.as_mut_ptr().expose_provenance() as u64;
    }
    if let Some(context) = context {
        let length = length_of(context)?;
        if attr.ctx_size_out > length {
            return Err(invalid());
        }
        let address = context.as_mut_ptr().expose_provenance() as u64;
        attr.ctx_size_in = length;
        attr.ctx_in = address;
        if attr.ctx_size_out > 0 {
            attr.ctx_out = address;
        }
    }
    // SAFETY: `attr` has the layout of the `test` member of `union bpf_attr`, and the size says
    // how much of the union it is. The addresses are of buffers that are borrowed by the caller
    // for the whole call and are as long as the size beside each says; the kernel writes only
    // through `data_out` and `ctx_out`, which come from unique references. The descriptor is
    // open: borrowed.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            std::ptr::from_mut(attr).cast::<libc::c_void>(),
            size_of::<TestAttr>(),
        )
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn length_of(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(|_| invalid())
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}
