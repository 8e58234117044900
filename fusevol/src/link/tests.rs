//! A link with a manager at its other end.
