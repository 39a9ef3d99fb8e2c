//! Reads JSON objects field by field and remembers which were read, so that none is passed over in silence.

use crate::spec::ApiVersion;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// An entry is not of the expected form.
#[derive(Debug)]
pub(super) struct Fault {
    /// Where in the file.
    pub(super) at: String,
    /// What is wrong.
    pub(super) what: String,
}

impl Fault {
    pub(super) fn new(at: impl Into<String>, what: impl ToString) -> Self {
        Self {
            at: at.into(),
            what: what.to_string(),
        }
    }
}

/// One object with its place in the file.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    pub(super) at: String,
    read: RefCell<BTreeSet<&'a str>>,
}

/// Bytes of input that a vector's rule may ask for outside of sectors.
const MAX_RULE_BYTES: u64 = 1 << 30;

/// `data(len, mult, add)`: byte `i` is `i·mult + add + (i >> 8)·11 + (i >> 16)·13` mod 256.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    mult: u64,
    add: u64,
}

impl Rule {
    /// The bytes `start .. start + out.len()`.
    pub(super) fn fill(self, start: u64, out: &mut [u8]) {
        for (i, byte) in (start..).zip(out) {
            let value = i
                .wrapping_mul(self.mult)
                .wrapping_add(self.add)
                .wrapping_add((i >> 8).wrapping_mul(11))
                .wrapping_add((i >> 16).wrapping_mul(13));
            [*byte, ..] = value.to_le_bytes();
        }
    }

    /// A reader over the first `len` bytes.
    pub(super) fn reader(self, len: u64) -> RuleReader {
        RuleReader {
            rule: self,
            at: 0,
            len,
        }
    }
}

/// Streams a rule's bytes.
pub(super) struct RuleReader {
    rule: Rule,
    at: u64,
    len: u64,
}

impl std::io::Read for RuleReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.len - self.at).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        self.rule.fill(self.at, &mut buffer[..count]);
        self.at += u64::try_from(count).expect("no machine addresses more than 2^64 bytes");
        Ok(count)
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(value: &'a Value, at: String) -> Result<Self, Fault> {
        match value {
            Value::Object(map) => Ok(Self {
                map,
                at,
                read: RefCell::default(),
            }),
            _ => Err(Fault::new(at, "expected an object")),
        }
    }

    /// Place of one field, for messages.
    pub(super) fn place(&self, key: &str) -> String {
        format!("{}.{key}", self.at)
    }

    fn fault(&self, key: &str, what: impl ToString) -> Fault {
        Fault::new(self.place(key), what)
    }

    /// Fields that nobody asked for.
    pub(super) fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        self.map
            .keys()
            .filter(|key| !read.contains(key.as_str()))
            .map(|key| self.place(key))
            .collect()
    }

    /// All fields of an object whose keys are data.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(key, value)| {
            self.read.borrow_mut().insert(key);
            (key.as_str(), value)
        })
    }

    pub(super) fn optional(&self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.map.get_key_value(key)?;
        self.read.borrow_mut().insert(key);
        Some(value)
    }

    pub(super) fn value(&self, key: &str) -> Result<&'a Value, Fault> {
        self.optional(key).ok_or_else(|| self.fault(key, "missing"))
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str, Fault> {
        self.value(key)?
            .as_str()
            .ok_or_else(|| self.fault(key, "expected a string"))
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, Fault> {
        self.value(key)?
            .as_bool()
            .ok_or_else(|| self.fault(key, "expected true or false"))
    }

    pub(super) fn u64(&self, key: &str) -> Result<u64, Fault> {
        number(self.value(key)?).ok_or_else(|| self.fault(key, "expected a number below 2^64"))
    }

    pub(super) fn usize(&self, key: &str) -> Result<usize, Fault> {
        usize::try_from(self.u64(key)?)
            .map_err(|_| self.fault(key, "number too large for this machine"))
    }

    pub(super) fn bytes(&self, key: &str) -> Result<Vec<u8>, Fault> {
        hex::decode(self.text(key)?).map_err(|e| self.fault(key, e))
    }

    pub(super) fn bytes32(&self, key: &str) -> Result<[u8; 32], Fault> {
        node(self.value(key)?).ok_or_else(|| self.fault(key, "expected 32 bytes of hex"))
    }

    pub(super) fn list(&self, key: &str) -> Result<&'a [Value], Fault> {
        match self.value(key)? {
            Value::Array(list) => Ok(list),
            _ => Err(self.fault(key, "expected a list")),
        }
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Vec<u64>, Fault> {
        numbers(self.value(key)?).ok_or_else(|| self.fault(key, "expected a list of numbers"))
    }

    pub(super) fn nodes(&self, key: &str) -> Result<Vec<[u8; 32]>, Fault> {
        nodes(self.value(key)?).ok_or_else(|| self.fault(key, "expected a list of 32-byte strings"))
    }

    pub(super) fn object(&self, key: &str) -> Result<Fields<'a>, Fault> {
        Fields::new(self.value(key)?, self.place(key))
    }

    pub(super) fn objects(&self, key: &str) -> Result<Vec<Fields<'a>>, Fault> {
        let list = self.list(key)?.iter().enumerate();
        list.map(|(i, value)| Fields::new(value, format!("{}[{i}]", self.place(key))))
            .collect()
    }

    /// `[[index, [numbers]], …]`.
    pub(super) fn rows(&self, key: &str) -> Result<Vec<(u64, Vec<u64>)>, Fault> {
        let row = |value: &Value| match value.as_array()?.as_slice() {
            [index, row] => Some((number(index)?, numbers(row)?)),
            _ => None,
        };
        let rows: Option<_> = self.list(key)?.iter().map(row).collect();
        rows.ok_or_else(|| self.fault(key, "expected a list of [index, [numbers]]"))
    }

    /// Either every node in order, or `[[index, node], …]`.
    pub(super) fn indexed_nodes(&self, key: &str) -> Result<Vec<(u64, [u8; 32])>, Fault> {
        indexed_nodes(self.list(key)?)
            .ok_or_else(|| self.fault(key, "expected nodes or a list of [index, node]"))
    }

    pub(super) fn api_version(&self) -> Result<ApiVersion, Fault> {
        match self.text("api_version")? {
            "V1_0_0" => Ok(ApiVersion::V1_0),
            "V1_1_0" => Ok(ApiVersion::V1_1),
            "V1_2_0" => Ok(ApiVersion::V1_2),
            other => Err(self.fault(
                "api_version",
                format!("{other} is not a version of this prover"),
            )),
        }
    }

    pub(super) fn rule(&self) -> Result<Rule, Fault> {
        let rule = self.object("rule")?;
        Ok(Rule {
            mult: rule.u64("mult")?,
            add: rule.u64("add")?,
        })
    }

    /// A length of generated input, bounded before anything is allocated for it.
    pub(super) fn length(&self, key: &str) -> Result<u64, Fault> {
        match self.u64(key)? {
            len if len <= MAX_RULE_BYTES => Ok(len),
            len => Err(self.fault(
                key,
                format!("{len} bytes of generated input, at most {MAX_RULE_BYTES} are allowed"),
            )),
        }
    }
}

/// A number, or decimal digits in a string where a JSON number would lose bits.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

pub(super) fn numbers(value: &Value) -> Option<Vec<u64>> {
    value.as_array()?.iter().map(number).collect()
}

fn node(value: &Value) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(value.as_str()?, &mut bytes).ok()?;
    Some(bytes)
}

pub(super) fn nodes(value: &Value) -> Option<Vec<[u8; 32]>> {
    value.as_array()?.iter().map(node).collect()
}

fn indexed_nodes(list: &[Value]) -> Option<Vec<(u64, [u8; 32])>> {
    let pair = |value: &Value| match value.as_array()?.as_slice() {
        [index, value] => Some((number(index)?, node(value)?)),
        _ => None,
    };
    if list.first().is_some_and(Value::is_string) {
        return (0..)
            .zip(list)
            .map(|(index, value)| Some((index, node(value)?)))
            .collect();
    }
    list.iter().map(pair).collect()
}
