//! One value of a JSON body, by RFC 6901 pointer.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::{ReadFault, Value};

/// The string or whole number at the pointer; `None` where there is none, or `null`.
///
/// Fails closed: a key on the way that stands twice, also in another letter case, is an error, as parsers differ in which
/// one they take. Keys beside the way are not judged.
pub(super) fn read(body: &[u8], pointer: &str) -> Result<Option<Value>, ReadFault> {
    let tokens: Vec<String> = tokens(pointer).collect();
    let fault = Cell::new(ReadFault::Malformed);
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = Walk { tokens: &tokens, fault: &fault }.deserialize(&mut json).map_err(|_| fault.get())?;
    json.end().map_err(|_| ReadFault::Malformed)?;
    Ok(value)
}

/// The reference tokens of a pointer, unescaped.
pub(super) fn tokens(pointer: &str) -> impl Iterator<Item = String> {
    pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~"))
}

/// Follows the tokens left; everything beside them is skipped unread.
struct Walk<'a> {
    tokens: &'a [String],
    /// Why the walk ended early; serde's own error type has no room for it.
    fault: &'a Cell<ReadFault>,
}

impl Walk<'_> {
    fn fail<E: serde::de::Error>(&self, fault: ReadFault) -> E {
        self.fault.set(fault);
        E::custom("")
    }

    /// A scalar: the value where the way ends here, nothing where it would go on.
    fn scalar(&self, value: &[u8]) -> Option<Value> {
        self.tokens.is_empty().then(|| Zeroizing::new(value.to_vec()))
    }

    fn other<E: serde::de::Error>(&self) -> Result<Option<Value>, E> {
        if self.tokens.is_empty() { Err(self.fail(ReadFault::WrongType)) } else { Ok(None) }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.scalar(value.as_bytes()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(self.scalar(value.to_string().as_bytes()))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.scalar(value.to_string().as_bytes()))
    }

    /// `1e2`, `100.0`: a number with several spellings names nobody.
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Self::Value, E> {
        self.other()
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Self::Value, E> {
        self.other()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((token, rest)) = self.tokens.split_first() else {
            return Err(self.fail(ReadFault::WrongType));
        };
        let wanted = folded(token);
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if folded(&key) != wanted {
                map.next_value::<IgnoredAny>()?;
            } else if found.is_some() || key != *token {
                return Err(self.fail(ReadFault::Twice));
            } else {
                found = Some(map.next_value_seed(Walk { tokens: rest, fault: self.fault })?);
            }
        }
        Ok(found.flatten())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Some((token, rest)) = self.tokens.split_first() else {
            return Err(self.fail(ReadFault::WrongType));
        };
        let canonical = token == "0" || !token.starts_with(['0', '+']);
        let Some(wanted) = token.parse::<usize>().ok().filter(|_| canonical) else {
            return Err(A::Error::custom("not an index"));
        };
        for _ in 0..wanted {
            if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = seq.next_element_seed(Walk { tokens: rest, fault: self.fault })?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found.flatten())
    }
}

/// Some parsers match keys without regard to letter case or width (Go's encoding/json).
fn folded(key: &str) -> String {
    if key.is_ascii() { key.to_ascii_lowercase() } else { key.nfkc().flat_map(char::to_lowercase).nfkc().collect() }
}
