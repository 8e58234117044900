//! Key files, whole and spoilt.
