//! The BPF object, in the form that this kernel takes.
//!
//! It has global functions (ADR 27), whose context argument the kernel compares with types of its own
//! (`btf_get_prog_ctx_type`, kernel `kernel/bpf/btf.c`). A kernel that was built without these
//! (`CONFIG_DEBUG_INFO_BTF`), as many for routers are, refuses such functions and takes the same as static
//! ones, which only have to be walked more often.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use object::{Object as _, ObjectSection as _};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/breakout365-ebpf"));

/// Where a kernel shows its types.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// The object with static functions where these are asked for, or the kernel takes no others.
///
/// # Errors
///
/// Its type information is not understood: a defect of the build.
pub(super) fn object(static_functions: bool) -> Result<Cow<'static, [u8]>, String> {
    if static_functions || !Path::new(KERNEL_TYPES).exists() {
        with_static_functions(OBJECT).map(Cow::Owned)
    } else {
        Ok(Cow::Borrowed(OBJECT))
    }
}

fn with_static_functions(object: &[u8]) -> Result<Vec<u8>, String> {
    let file = object::File::parse(object).map_err(|error| error.to_string())?;
    let section = file.section_by_name(".BTF").ok_or("no section .BTF")?;
    let (start, length) = section.file_range().ok_or("an empty section .BTF")?;
    let range = range(start, length).ok_or("a section .BTF outside the file")?;
    let mut changed = object.to_vec();
    let btf = changed.get_mut(range).ok_or("a section .BTF outside the file")?;
    make_functions_static(btf).ok_or("types that are not understood")?;
    Ok(changed)
}

fn range(start: u64, length: u64) -> Option<Range<usize>> {
    let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
    Some(start..start.checked_add(length)?)
}

/// Kinds of types, and what follows the three words of each (kernel `Documentation/bpf/btf.rst`).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// `struct btf_header`, `struct btf_type`: words in the order of this machine, for which the object is built.
fn make_functions_static(btf: &mut [u8]) -> Option<()> {
    const MAGIC: [u8; 2] = 0xeb9f_u16.to_ne_bytes();
    if !btf.starts_with(&MAGIC) {
        return None;
    }
    let offset = |at| usize::try_from(word(btf, at)?).ok();
    let mut at = offset(4)?.checked_add(offset(8)?)?;
    let end = at.checked_add(offset(12)?)?;
    while at < end {
        let info_at = at.checked_add(4)?;
        let info = word(btf, info_at)?;
        let (kind, number) = ((info >> 24) & 0x1f, info & 0xffff);
        if kind == kind::FUNC {
            // There the number is the linkage: 0 is static.
            btf.get_mut(info_at..info_at.checked_add(4)?)?
                .copy_from_slice(&(info & !0xffff).to_ne_bytes());
        }
        let each = match kind {
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12,
            kind::ENUM | kind::FUNC_PROTO => 8,
            _ => 0,
        };
        let fixed: u32 = match kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            1..=kind::ENUM64 => number.checked_mul(each)?,
            _ => return None,
        };
        at = at.checked_add(12)?.checked_add(usize::try_from(fixed).ok()?)?;
    }
    (at == end).then_some(())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_linkage_of_functions_is_changed() {
        let changed = with_static_functions(OBJECT).unwrap();
        let bytes = OBJECT.iter().zip(&changed).filter(|(before, after)| before != after);
        let bytes: Vec<_> = bytes.collect();
        // One byte of each: global is 1, static is 0.
        assert!(bytes.len() >= 16, "{bytes:?}");
        assert!(bytes.iter().all(|(before, after)| (**before, **after) == (1, 0)), "{bytes:?}");
        assert_eq!(with_static_functions(&changed).unwrap(), changed);
    }

    #[test]
    fn types_that_are_cut_off_are_refused() {
        let file = object::File::parse(OBJECT).unwrap();
        let btf = file.section_by_name(".BTF").unwrap().data().unwrap();
        for length in (0..btf.len()).step_by(97) {
            assert_eq!(make_functions_static(&mut btf[..length].to_vec()), None, "{length}");
            if length > 4096 {
                break;
            }
        }
    }
}
