//! Frames, whole and spoilt.
