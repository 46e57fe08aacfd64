//! Setters that several builders share: attributes, preconditions, pages. They are macros, so that each
//! builder documents them as its own methods.

/// Methods that set `self.attributes`.
macro_rules! attributes_setters {
    // Types are named by full paths, because the macro expands in modules without these imports.
    () => {
        /// Sets the media type, such as `image/png`.
        pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
            self.attributes.content_type = Some(content_type.into());
            self
        }

        /// Sets the encoding of the payload, such as `zstd`. The engine stores the value and does
        /// not apply it.
        pub fn compression(mut self, compression: impl Into<String>) -> Self {
            self.attributes.compression = Some(compression.into());
            self
        }

        /// Sets the origin of the object, such as a URL.
        pub fn origin(mut self, origin: impl Into<String>) -> Self {
            self.attributes.origin = Some(origin.into());
            self
        }

        /// Sets the file name under which a user would save the object.
        pub fn filename(mut self, filename: impl Into<String>) -> Self {
            self.attributes.filename = Some(filename.into());
            self
        }

        /// Adds a custom entry, and replaces an earlier entry of the same name.
        pub fn custom(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
            self.attributes.custom.insert(name.into(), value.into());
            self
        }

        /// Sets all custom entries, and replaces earlier entries.
        pub fn custom_map(mut self, custom: std::collections::BTreeMap<String, String>) -> Self {
            self.attributes.custom = custom;
            self
        }

        /// Sets the time to live, counted from this write: at least 1 ms, at most a hundred years.
        /// From the deadline on, the object is absent for all operations.
        pub fn time_to_live(mut self, time: std::time::Duration) -> Self {
            self.attributes.expiration = cenotaph_storage::records::Expiration::TimeToLive(time);
            self
        }

        /// Sets the time to idle, counted from the last write or read, with the bounds of
        /// [`time_to_live`](Self::time_to_live).
        ///
        /// A get counts as a read; a head or a listing does not. A read extends the deadline at
        /// most once per quarter of the time to idle, and at most once a day.
        pub fn time_to_idle(mut self, time: std::time::Duration) -> Self {
            self.attributes.expiration = cenotaph_storage::records::Expiration::TimeToIdle(time);
            self
        }

        /// Sets all attributes, and replaces attributes set before.
        pub fn attributes(mut self, attributes: cenotaph_storage::records::Attributes) -> Self {
            self.attributes = attributes;
            self
        }
    };
}

/// Methods that set `self.precondition`.
macro_rules! precondition_setters {
    () => {
        /// Requires that the object is absent. Otherwise the operation fails with
        /// [`Conflict`](crate::ErrorKind::Conflict), which contains the current version and etag.
        pub fn if_absent(self) -> Self {
            self.precondition(cenotaph_storage::decide::Precondition::Absent)
        }

        /// Requires that the object has this version. Otherwise the operation fails with
        /// [`Conflict`](crate::ErrorKind::Conflict), which contains the current version and etag,
        /// if there are any.
        pub fn if_version(self, version: impl Into<cenotaph_storage::Version>) -> Self {
            self.precondition(cenotaph_storage::decide::Precondition::Version(
                version.into(),
            ))
        }

        /// Requires that the object has this etag. Otherwise the operation fails with
        /// [`Conflict`](crate::ErrorKind::Conflict), which contains the current version and etag,
        /// if there are any.
        pub fn if_etag(self, etag: cenotaph_storage::Etag) -> Self {
            self.precondition(cenotaph_storage::decide::Precondition::Etag(etag))
        }

        /// Sets the precondition, and replaces a precondition set before.
        pub fn precondition(
            mut self,
            precondition: cenotaph_storage::decide::Precondition,
        ) -> Self {
            self.precondition = precondition;
            self
        }
    };
}

/// Methods that set `self.request` of a listing.
macro_rules! page_setters {
    () => {
        /// Sets the maximum number of entries of a page: 1 to the configured `list_page_max`, 1000
        /// by default.
        pub fn limit(mut self, limit: usize) -> Self {
            self.request.limit = limit;
            self
        }

        /// Skips entries that can't be read because a file of the index is damaged.
        ///
        /// The page lacks these entries and names their ranges in `unreadable`. By default a
        /// listing fails at the first unreadable entry.
        pub fn step_over_damage(mut self) -> Self {
            self.request.on_damage = cenotaph_storage::OnDamage::StepOver;
            self
        }
    };
}

pub(crate) use {attributes_setters, page_setters, precondition_setters};
