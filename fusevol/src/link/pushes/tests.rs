//! Pushes are handed on once and answered as often as they are repeated.
