//! The front door of verification: calm on any bytes.
