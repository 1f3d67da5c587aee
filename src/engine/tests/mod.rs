//! Two engines.
