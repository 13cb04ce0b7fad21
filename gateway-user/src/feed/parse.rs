//! Reads a snapshot: the web service's bare list, or the project's canonical envelope. What is
//! not understood is refused as a whole.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::record::{self, FieldError};
use super::{Snapshot, canonical};

/// Longest feed that is read, in bytes; the largest one published has about 50 KiB.
pub const MAX_BYTES: usize = 16 << 20;

/// Why a feed is refused: where it came from, which record and field, and what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct FeedError {
    origin: String,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    #[error("is longer than {MAX_BYTES} bytes, which no endpoint list is")]
    TooLong,
    #[error("is not the JSON of an endpoint list: {0}")]
    Json(serde_json::Error),
    #[error("{0}")]
    Shape(String),
    #[error("{record}: field {field:?} {problem}")]
    Field { record: String, field: &'static str, problem: String },
}

/// Reads the feed in `path`.
///
/// # Errors
///
/// The file cannot be read, or [`parse`] refuses it.
pub fn read(path: &Path) -> Result<Snapshot, FeedError> {
    let origin = path.display().to_string();
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    if let Err(error) = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
        return Err(FeedError { origin, problem: Problem::Unreadable(error) });
    }
    parse(&bytes, &origin)
}

/// Parses a feed; `origin` says in refusals where the bytes came from.
///
/// A JSON array is the web service's shape. A JSON object is the canonical envelope that
/// [`super::write()`] makes; its digest must be right.
///
/// # Errors
///
/// Anything that is not understood: nothing is skipped, so a snapshot is either what the feed
/// says or does not come to be.
pub fn parse(bytes: &[u8], origin: &str) -> Result<Snapshot, FeedError> {
    snapshot(bytes).map_err(|problem| FeedError { origin: origin.to_owned(), problem })
}

fn snapshot(bytes: &[u8]) -> Result<Snapshot, Problem> {
    if bytes.len() > MAX_BYTES {
        return Err(Problem::TooLong);
    }
    // The first character tells the shapes apart. A list of anything else than objects is then
    // refused by the type, with line and column.
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => envelope(&serde_json::from_slice(bytes).map_err(Problem::Json)?),
        Some(b'[') => {
            let records: Vec<Object> = serde_json::from_slice(bytes).map_err(Problem::Json)?;
            bare(&records)
        }
        Some(_) => Err(Problem::Shape("is not a list of endpoint sets".into())),
        None => Err(Problem::Shape("is empty".into())),
    }
}

fn envelope(envelope: &Object) -> Result<Snapshot, Problem> {
    let text = |field: &'static str| {
        envelope.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
    };
    let missing = |field| Problem::Shape(format!("field {field:?} is missing or not a text"));
    let optional = |field: &'static str| match envelope.get(field) {
        Some(_) => text(field).map(|text| Some(text.to_owned())).ok_or_else(|| missing(field)),
        None => Ok(None),
    };
    let sets = envelope.get("sets").ok_or_else(|| {
        Problem::Shape("is neither a list of endpoint sets nor an object with \"sets\"".into())
    })?;
    let records = Vec::<Object>::deserialize(sets).map_err(Problem::Json)?;
    let claimed = text("digest").ok_or_else(|| missing("digest"))?;
    let version = optional("version")?;
    if let Some(version) = &version
        && !(version.len() == 10 && version.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err(Problem::Shape(format!("field \"version\" {version:?} is not ten digits")));
    }
    let snapshot = Snapshot { instance: optional("instance")?, version, ..bare(&records)? };
    if claimed != snapshot.digest {
        let problem =
            format!("is damaged: digest {claimed:?} is written, the sets have {}", snapshot.digest);
        return Err(Problem::Shape(problem));
    }
    Ok(snapshot)
}

fn bare(records: &[Object]) -> Result<Snapshot, Problem> {
    if records.is_empty() {
        return Err(Problem::Shape("is an empty list: no endpoint set".into()));
    }
    let mut sets = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        let problem = |record: String, FieldError { field, problem }: FieldError| Problem::Field {
            record,
            field,
            problem,
        };
        let id = record::id(record).map_err(|error| problem(format!("record {index}"), error))?;
        let set = record::endpoint_set(id, record)
            .map_err(|error| problem(format!("set {id} (record {index})"), error))?;
        if sets.insert(id, set).is_some() {
            let error = FieldError { field: "id", problem: "is taken by another record".into() };
            return Err(problem(format!("set {id} (record {index})"), error));
        }
    }
    Ok(Snapshot { instance: None, version: None, digest: canonical::digest(&sets), sets })
}

/// A JSON object that names no field twice: of two values, neither can be preferred.
#[derive(Debug, Default)]
pub(super) struct Object(BTreeMap<String, Value>);

impl Object {
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, such as an endpoint set")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut object = Object::default();
                while let Some((field, value)) = map.next_entry::<String, Value>()? {
                    if object.0.contains_key(&field) {
                        return Err(A::Error::custom(format_args!("field {field:?} stands twice")));
                    }
                    object.0.insert(field, value);
                }
                Ok(object)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
