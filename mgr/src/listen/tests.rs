//! Who is let in, and what happens to those who break the rules.
