//! PURE: JSON read the way Go's `encoding/json` fills a struct.
//!
//! Keys match without regard to case, the last of several equal keys wins, `null` leaves the
//! default in place, unknown keys are ignored, and a number is an integer only if written as one.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::Problem;

/// A JSON value; objects keep every member in the order of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Unsigned(u64),
    /// Negative, fractional or with an exponent: never a valid setting.
    OtherNumber(String),
    String(String),
    Array,
    Object(Vec<(String, Json)>),
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::OtherNumber(value) => f.write_str(value),
            Self::String(value) => write!(f, "\"{value}\""),
            Self::Array => f.write_str("[...]"),
            Self::Object(_) => f.write_str("{...}"),
        }
    }
}

/// Takes settings out of one object; what does not fit becomes a [`Problem`].
pub(super) struct Object<'a> {
    /// Put before each key in messages: `Backend.` for the inner block.
    pub prefix: &'static str,
    pub members: &'a [(String, Json)],
    pub problems: &'a mut Vec<Problem>,
}

impl Object<'_> {
    /// The last member of that name, `null` included.
    pub(super) fn last(&self, key: &str) -> Option<&Json> {
        self.members.iter().rev().find(|(name, _)| same_key(name, key)).map(|(_, value)| value)
    }

    pub(super) fn bool(&mut self, key: &str) -> Option<bool> {
        match self.present(key)? {
            Json::Bool(value) => Some(value),
            other => self.refuse(key, &other, "must be true or false"),
        }
    }

    pub(super) fn uint(&mut self, key: &str, allowed: RangeInclusive<u64>) -> Option<u64> {
        match self.present(key)? {
            Json::Unsigned(value) if allowed.contains(&value) => Some(value),
            other => {
                let rule = format!("must be a whole number from {} to {}", allowed.start(), allowed.end());
                self.refuse(key, &other, &rule)
            }
        }
    }

    /// A string that reads as `T`; `what` names the form in the message.
    pub(super) fn parsed<T: FromStr>(&mut self, key: &str, what: &str) -> Option<T> {
        let value = self.present(key)?;
        if let Json::String(text) = &value
            && let Ok(parsed) = text.parse()
        {
            return Some(parsed);
        }
        self.refuse(key, &value, &format!("must be {what}"))
    }

    pub(super) fn refuse<T>(&mut self, key: &str, value: &Json, rule: &str) -> Option<T> {
        self.problems.push(Problem::new(format!("{}{key}", self.prefix), value.to_string(), rule));
        None
    }

    fn present(&self, key: &str) -> Option<Json> {
        self.last(key).filter(|value| **value != Json::Null).cloned()
    }
}

/// Go compares under Unicode simple folding, in which two letters outside ASCII equal ASCII ones.
fn same_key(name: &str, key: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(key.chars().map(fold))
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::OtherNumber(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::OtherNumber(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Json::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(text: &str, take: impl FnOnce(&mut Object<'_>) -> T) -> (T, Vec<String>) {
        let Json::Object(members) = serde_json::from_str(text).unwrap() else { panic!("not an object") };
        let mut problems = Vec::new();
        let taken = take(&mut Object { prefix: "", members: &members, problems: &mut problems });
        (taken, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_last_of_equal_keys_wins_whatever_their_case() {
        let text = r#"{"VNI": 1, "vni": 2, "VNI": 3, "vNi": 4, "subnet\u017f": 9}"#;
        assert_eq!(read(text, |o| (o.uint("VNI", 0..=9), o.uint("Subnets", 0..=9))), ((Some(4), Some(9)), vec![]));
    }

    #[test]
    fn null_is_as_good_as_absent() {
        assert_eq!(read(r#"{"GBP": null}"#, |o| o.bool("GBP")), (None, vec![]));
    }

    #[test]
    fn what_go_would_not_take_for_a_number_is_refused() {
        for text in ["-1", "24.0", "1e1", "\"24\"", "true", "[]", "{}", "18446744073709551616"] {
            let (value, problems) = read(&format!(r#"{{"SubnetLen": {text}}}"#), |o| o.uint("SubnetLen", 1..=30));
            assert_eq!((value, problems.len()), (None, 1), "{text}: {problems:?}");
        }
    }
}
