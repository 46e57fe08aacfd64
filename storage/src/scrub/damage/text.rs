//! The text form of [`Damage`]: its name, the damaged entry, and its description.

use std::fmt;

use super::Damage;

impl Damage {
    /// Returns the name of the damage, as in its JSON form.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MissingBlob { .. } => "missing-blob",
            Self::CorruptBlob { .. } => "corrupt-blob",
            Self::UnreadableBlob { .. } => "unreadable-blob",
            Self::MissingChecksums { .. } => "missing-checksums",
            Self::DamagedTrailer { .. } => "damaged-trailer",
            Self::MissingPayload { .. } => "missing-payload",
            Self::CorruptPayload { .. } => "corrupt-payload",
            Self::BrokenRow { .. } => "broken-row",
            Self::UnreadableRange { .. } => "unreadable-range",
            Self::UnknownFormat { .. } => "unknown-format",
            Self::RowWithoutExpiry { .. } => "row-without-expiry",
            Self::ExpiryWithoutRow { .. } => "expiry-without-row",
            Self::PayloadWithoutRow { .. } => "payload-without-row",
            Self::BrokenSession { .. } => "broken-session",
            Self::BrokenPart { .. } => "broken-part",
            Self::MissingPart { .. } => "missing-part",
            Self::CorruptPart { .. } => "corrupt-part",
            Self::PartWithoutSession { .. } => "part-without-session",
            Self::SessionWithoutExpiry { .. } => "session-without-expiry",
            Self::ExpiryWithoutSession { .. } => "expiry-without-session",
            Self::FloorBesideRow { .. } => "floor-beside-row",
            Self::BrokenEntry { .. } => "broken-entry",
            Self::UnknownBlob { .. } => "unknown-blob",
            Self::ForeignBlob { .. } => "foreign-blob",
        }
    }

    /// Returns the description of the damage, if this kind of damage has one.
    fn why(&self) -> Option<&str> {
        match self {
            Self::CorruptBlob { why, .. }
            | Self::UnreadableBlob { why, .. }
            | Self::BrokenRow { why, .. }
            | Self::UnreadableRange { why, .. }
            | Self::BrokenSession { why, .. }
            | Self::BrokenPart { why, .. }
            | Self::CorruptPart { why, .. } => Some(why),
            Self::MissingBlob { .. }
            | Self::MissingChecksums { .. }
            | Self::DamagedTrailer { .. }
            | Self::MissingPayload { .. }
            | Self::CorruptPayload { .. }
            | Self::UnknownFormat { .. }
            | Self::RowWithoutExpiry { .. }
            | Self::ExpiryWithoutRow { .. }
            | Self::PayloadWithoutRow { .. }
            | Self::MissingPart { .. }
            | Self::PartWithoutSession { .. }
            | Self::SessionWithoutExpiry { .. }
            | Self::ExpiryWithoutSession { .. }
            | Self::FloorBesideRow { .. }
            | Self::BrokenEntry { .. }
            | Self::UnknownBlob { .. }
            | Self::ForeignBlob { .. } => None,
        }
    }

    /// Writes the damaged entry as `key=value` pairs.
    fn fmt_entry(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingBlob { object, revision }
            | Self::MissingChecksums { object, revision }
            | Self::DamagedTrailer { object, revision }
            | Self::CorruptBlob {
                object, revision, ..
            }
            | Self::UnreadableBlob {
                object, revision, ..
            }
            | Self::UnknownBlob {
                object, revision, ..
            } => write!(f, "object={object} revision={revision}"),
            Self::MissingPayload { object }
            | Self::CorruptPayload { object }
            | Self::FloorBesideRow { object }
            | Self::RowWithoutExpiry { object, .. }
            | Self::ExpiryWithoutRow { object, .. } => write!(f, "object={object}"),
            Self::BrokenRow { key, .. }
            | Self::PayloadWithoutRow { key }
            | Self::PartWithoutSession { key } => write!(f, "key={key}"),
            Self::UnreadableRange {
                table, from, to, ..
            } => {
                let to = to
                    .as_ref()
                    .map_or("the end".to_owned(), ToString::to_string);
                write!(f, "table={} from={from} to={to}", table.name())
            }
            Self::UnknownFormat { table, key } | Self::BrokenEntry { table, key } => {
                write!(f, "table={} key={key}", table.name())
            }
            // An upload is named by its start time: see the module documentation.
            Self::BrokenSession { object, begun, .. }
            | Self::SessionWithoutExpiry { object, begun, .. }
            | Self::ExpiryWithoutSession { object, begun, .. } => {
                write!(f, "object={object} begun_ms={}", begun.as_millis())
            }
            Self::BrokenPart {
                object,
                begun,
                part,
                ..
            } => {
                write!(
                    f,
                    "object={object} begun_ms={} part={part}",
                    begun.as_millis()
                )
            }
            Self::MissingPart {
                object,
                begun,
                part,
                revision,
            }
            | Self::CorruptPart {
                object,
                begun,
                part,
                revision,
                ..
            } => {
                let begun = begun.as_millis();
                write!(
                    f,
                    "object={object} begun_ms={begun} part={part} revision={revision}"
                )
            }
            Self::ForeignBlob { path } => write!(f, "path={path:?}"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name())?;
        self.fmt_entry(f)?;
        match self.why() {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}
