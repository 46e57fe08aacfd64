//! Targets of the public decoders. Targets of private decoders are unit tests beside them.

mod mutated {
    mod blobs;
    mod config;
    mod contract;
    mod keys;
    mod names;
    mod records;
}
