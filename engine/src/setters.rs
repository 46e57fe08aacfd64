//! What several builders have in common: attributes to state, preconditions to demand. As macros,
//! so that each builder shows them as methods of its own.

/// Methods that set `self.attributes`.
macro_rules! attributes_setters {
    () => {
        /// The media type, such as `image/png`.
        pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
            self.attributes.content_type = Some(content_type.into());
            self
        }

        /// The encoding of the payload as given, such as `zstd`. It is stored, not applied.
        pub fn compression(mut self, compression: impl Into<String>) -> Self {
            self.attributes.compression = Some(compression.into());
            self
        }

        /// Where the object comes from.
        pub fn origin(mut self, origin: impl Into<String>) -> Self {
            self.attributes.origin = Some(origin.into());
            self
        }

        /// The name a person would save it under.
        pub fn filename(mut self, filename: impl Into<String>) -> Self {
            self.attributes.filename = Some(filename.into());
            self
        }

        /// One more custom entry; an earlier one of the same name is replaced.
        pub fn custom(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
            self.attributes.custom.insert(name.into(), value.into());
            self
        }

        /// All custom entries at once, replacing earlier ones.
        pub fn custom_map(mut self, custom: std::collections::BTreeMap<String, String>) -> Self {
            self.attributes.custom = custom;
            self
        }

        /// The object exists for so long from this write on: at least 1 ms, at most a hundred
        /// years. After that it is absent, everywhere at once.
        pub fn time_to_live(mut self, time: std::time::Duration) -> Self {
            self.attributes.expiration = cenotaph_storage::rows::Expiration::TimeToLive(time);
            self
        }

        /// The object exists for so long after it was written or read last, with the bounds of
        /// [`time_to_live`](Self::time_to_live). Gets count as reads, heads and listings do not; a
        /// read extends the deadline at most once in a quarter of the time, and at most once a day.
        pub fn time_to_idle(mut self, time: std::time::Duration) -> Self {
            self.attributes.expiration = cenotaph_storage::rows::Expiration::TimeToIdle(time);
            self
        }

        /// Everything that may be stated about the object at once, replacing what was stated
        /// before.
        pub fn attributes(mut self, attributes: cenotaph_storage::rows::Attributes) -> Self {
            self.attributes = attributes;
            self
        }
    };
}

/// Methods that set `self.precondition`.
macro_rules! precondition_setters {
    () => {
        /// Only if the object is absent. Otherwise [`Conflict`](crate::ErrorKind::Conflict), which
        /// tells how it stands.
        pub fn if_absent(self) -> Self {
            self.precondition(cenotaph_storage::decide::Precondition::Absent)
        }

        /// Only if the object has this version. Otherwise [`Conflict`](crate::ErrorKind::Conflict),
        /// which tells how it stands.
        pub fn if_version(self, version: impl Into<cenotaph_storage::Version>) -> Self {
            self.precondition(cenotaph_storage::decide::Precondition::Version(
                version.into(),
            ))
        }

        /// Only if the object has this etag. Otherwise [`Conflict`](crate::ErrorKind::Conflict),
        /// which tells how it stands.
        pub fn if_etag(self, etag: cenotaph_storage::Etag) -> Self {
            self.precondition(cenotaph_storage::decide::Precondition::Etag(etag))
        }

        /// Only if this holds, replacing what was demanded before.
        pub fn precondition(
            mut self,
            precondition: cenotaph_storage::decide::Precondition,
        ) -> Self {
            self.precondition = precondition;
            self
        }
    };
}

pub(crate) use {attributes_setters, precondition_setters};
