//! Segment scripts.
