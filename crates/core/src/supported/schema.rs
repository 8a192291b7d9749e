//! Every field of a Kubernetes type, read from the code that parses it: each struct tells serde the names of its fields, so a
//! deserializer that only listens learns them all.

use serde::de::value::{Error, StrDeserializer};
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, Visitor};

/// The paths of all fields of `T` below `root`, with `[]` for the items of a list.
pub(super) fn paths<'de, T: Deserialize<'de>>(root: &str) -> Vec<String> {
    let mut found = Vec::new();
    let listener = Listener { path: root.to_owned(), found: &mut found };
    T::deserialize(listener).unwrap();
    found
}

struct Listener<'a> {
    path: String,
    found: &'a mut Vec<String>,
}

impl Listener<'_> {
    fn at(&mut self, path: String) -> Listener<'_> {
        Listener { path, found: self.found }
    }
}

macro_rules! scalars {
    ($($method:ident => $visit:ident($value:expr)),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Listener<'_> {
    type Error = Error;

    scalars! {
        deserialize_any => visit_str("1"),
        deserialize_bool => visit_bool(true),
        deserialize_i8 => visit_i8(1),
        deserialize_i16 => visit_i16(1),
        deserialize_i32 => visit_i32(1),
        deserialize_i64 => visit_i64(1),
        deserialize_u8 => visit_u8(1),
        deserialize_u16 => visit_u16(1),
        deserialize_u32 => visit_u32(1),
        deserialize_u64 => visit_u64(1),
        deserialize_f32 => visit_f32(1.0),
        deserialize_f64 => visit_f64(1.0),
        deserialize_char => visit_char('c'),
        // The one text that every text type of the API can parse.
        deserialize_str => visit_str("2026-01-01T00:00:00.000000Z"),
        deserialize_string => visit_str("2026-01-01T00:00:00.000000Z"),
        deserialize_bytes => visit_bytes(b""),
        deserialize_byte_buf => visit_bytes(b""),
        deserialize_identifier => visit_str("key"),
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        let item = format!("{}[]", self.path);
        visitor.visit_seq(Item(Some(self.at(item))))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    /// A map's keys are the user's, not fields: it is left empty, which no map of a pod's spec minds.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Fields { listener: self, names: &[], current: "" })
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, names: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Fields { listener: self, names, current: "" })
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer("1"))
    }
}

struct Item<'a>(Option<Listener<'a>>);

impl<'de> de::SeqAccess<'de> for Item<'_> {
    type Error = Error;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|item| seed.deserialize(item)).transpose()
    }
}

struct Fields<'a> {
    listener: Listener<'a>,
    names: &'static [&'static str],
    current: &'static str,
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((name, rest)) = self.names.split_first() else {
            return Ok(None);
        };
        (self.current, self.names) = (name, rest);
        let name: StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let path = format!("{}.{}", self.listener.path, self.current);
        self.listener.found.push(path.clone());
        seed.deserialize(self.listener.at(path))
    }
}
